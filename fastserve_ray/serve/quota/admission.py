"""Whether a request may go on to a replica, and what is to be put right when it has ended."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastserve_ray.serve.auth.caller import current_caller
from fastserve_ray.serve.auth.table import check_model
from fastserve_ray.serve.calls import GenerateCall
from fastserve_ray.serve.failures import Failure, RequestFailed, invalid, overloaded, timed_out
from fastserve_ray.serve.observe import Observed
from fastserve_ray.serve.quota.cost import estimate
from fastserve_ray.serve.quota.drain import Drain
from fastserve_ray.serve.quota.gate import Gate, QueueFull
from fastserve_ray.serve.quota.headers import limit_headers, rate_limited
from fastserve_ray.serve.quota.keeper import LocalKeeper
from fastserve_ray.serve.quota.ledger import allowance_of
from fastserve_ray.serve.request_log import log_request

if TYPE_CHECKING:
    from types import TracebackType

    from fastserve_ray.serve.auth.caller import Caller
    from fastserve_ray.serve.gateway import ServedModel
    from fastserve_ray.serve.metrics import ServerMetrics
    from fastserve_ray.serve.quota.keeper import Keeper
    from fastserve_ray.spec.access import LimitsSpec

CLIENT_LEFT = "client_left"
TOO_MANY = "too many requests are waiting for this model; try again later"


class Admission:
    """One for a process that answers HTTP.

    Args:
        keeper: where allowances are counted.
    """

    def __init__(self, keeper: Keeper | None = None) -> None:
        self.keeper = keeper or LocalKeeper()
        self._drains: dict[tuple[str, str | None], Drain] = {}
        """By model and key; None: all keys."""
        self._gates: dict[str, Gate] = {}
        """By model, where the queue is fair."""
        self._num_in_flight: Counter[tuple[str, str]] = Counter()
        """By model and key: let in, or waiting at the gate."""
        self._labels: dict[str, str] = {}
        """Of API keys, by name."""
        self.metrics: ServerMetrics | None = None

    async def admit(self, model: ServedModel, call: Any, num_expected: float = 0.0) -> Ticket:
        """Let a call of the current caller in, when it is its turn.

        Args:
            num_expected: tokens that it will probably be, prompt and completion.

        Raises:
            RequestFailed: 403, the key may not ask this model; 400, it asks for more than is allowed; 429, the key has
                used up what it may; 503, too many requests wait; 504, its time was over before its turn.
        """
        caller = current_caller()
        ticket = Ticket(self, caller, model, call, num_expected)
        try:
            check_model(caller.key, model.name)
            _check_size(call, model.limits)
            self._check_in_flight(caller, model)
            await self._take_place(ticket)
        except BaseException as error:
            self.ended(ticket, error)
            raise
        return ticket

    async def _take_place(self, ticket: Ticket) -> None:
        key, model = ticket.caller.name, ticket.model.name
        with ExitStack() as undo:
            self._num_in_flight[model, key] += 1
            undo.callback(self.leave, model, key)
            verdict = await self.keeper.take(key, model, ticket.num_taken, allowance_of(ticket.caller.key))
            ticket.caller.headers.update(limit_headers(verdict))
            if verdict.lacking is not None:
                raise RequestFailed(rate_limited(key, verdict))
            undo.callback(self.keeper.settle, key, model, ticket.num_taken, 0, 0)
            await self._enter(ticket)
            undo.pop_all()

    def ended(self, ticket: Ticket, error: BaseException | None) -> None:
        """Count and log a request that has ended, well, refused or failed."""
        if error is not None:
            ticket.seen.code = _code_of(error)
        if self.metrics is not None:
            self.metrics.request_ended(ticket.seen)
        if ticket.model.request_log != "off":
            log_request(ticket.caller, ticket.call, ticket.seen, with_texts=ticket.model.request_log == "texts")

    def num_queued(self, model: ServedModel) -> dict[str, int]:
        """Requests at a model's gate, by the label of their keys."""
        found: Counter[str] = Counter()
        gate = self.gate(model)
        for key, count in gate.waiting_by_key().items() if gate is not None else ():
            found[self._labels.get(key, "")] += count
        return dict(found)

    def gate(self, model: ServedModel) -> Gate | None:
        """None where Serve's own queue is the only one."""
        if not model.has_fair_queue:
            return None
        if model.name not in self._gates:
            self._gates[model.name] = Gate(model.max_ongoing_requests, model.max_queued_requests)
        return self._gates[model.name]

    def drain(self, model: str, key: str | None = None) -> Drain:
        """How fast requests end: of a key, or of all."""
        return self._drains.setdefault((model, key), Drain())

    def num_in_flight(self, model: str) -> int:
        """Requests for a model that have not ended, those that wait among them."""
        return sum(count for (name, _), count in self._num_in_flight.items() if name == model)

    def leave(self, model: str, key: str) -> None:
        self._num_in_flight[model, key] -= 1
        if not self._num_in_flight[model, key]:
            del self._num_in_flight[model, key]

    def retry_after_s(self, model: str, num_ahead: int) -> int:
        """For a request that finds ``num_ahead`` others before it."""
        return self.drain(model).retry_after_s(num_ahead, asyncio.get_running_loop().time())

    async def _enter(self, ticket: Ticket) -> None:
        gate = self.gate(ticket.model)
        if gate is None:
            return
        key, model = ticket.caller.key, ticket.model.name
        if key is not None:
            self._labels[key.name] = key.label
        start = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(ticket.deadline):
                await gate.enter(
                    ticket.share_key,
                    weight=ticket.share_weight,
                    cost=1.0 + ticket.num_taken,
                    num_tokens=ticket.num_expected,
                )
        except QueueFull as full:
            now = asyncio.get_running_loop().time()
            seconds = self.drain(model, ticket.caller.name).retry_after_s(full.num_ahead, now)
            raise RequestFailed(overloaded(TOO_MANY, seconds)) from full
        except TimeoutError as error:
            raise RequestFailed(timed_out(ticket.allowed_s)) from error
        ticket.seen.gate_s = asyncio.get_running_loop().time() - start

    def _check_in_flight(self, caller: Caller, model: ServedModel) -> None:
        own = caller.key.max_concurrent_requests if caller.key is not None else None
        limit = own or model.limits.max_concurrent_requests
        num_in_flight = sum(count for (_, key), count in self._num_in_flight.items() if key == caller.name)
        if limit is None or num_in_flight < limit:
            return
        whose = f"the key {caller.name!r} has" if caller.key is not None else "there are"
        message = f"{whose} {limit} requests in flight, as many as it may; try again when one has ended"
        retry_after_s = self.drain(model.name, caller.name).retry_after_s(1, asyncio.get_running_loop().time())
        raise RequestFailed(
            Failure(429, message, code="too_many_concurrent_requests", retry_after_s=retry_after_s, kind="requests")
        )


class Ticket:
    """A call that was let in; a context, at whose end its place is free and its tokens are settled."""

    def __init__(
        self, admission: Admission, caller: Caller, model: ServedModel, call: Any, num_expected: float
    ) -> None:
        self._admission = admission
        self.caller = caller
        self.model = model
        self.call = call
        self.num_taken = estimate(call)
        """Tokens, by the estimate; the most that it may use."""
        self.num_expected = num_expected
        """Tokens that it will probably use."""
        clock = asyncio.get_running_loop().time
        self.deadline = caller.deadline(model.request_timeout_s, clock())
        """On the event loop's clock."""
        arrived_at = clock() if caller.arrived_at is None else caller.arrived_at
        self.seen = Observed(model.name, caller.label, arrived_at, clock)

    def outgoing(self) -> Any:
        """The call as the replica gets it, now: whose share it uses, and the time that is left."""
        self.seen.sent()
        if not isinstance(self.call, GenerateCall):
            return self.call
        return dataclasses.replace(
            self.call,
            share_key=self.share_key,
            share_weight=self.share_weight,
            timeout_s=max(0.0, self.deadline - asyncio.get_running_loop().time()),
            max_prompt_tokens=self.model.limits.max_prompt_tokens,
        )

    @property
    def share_key(self) -> str:
        """The key's name; without keys the user that the request names."""
        return self.caller.name or getattr(self.call, "share_key", "")

    @property
    def share_weight(self) -> float:
        return self.caller.key.weight if self.caller.key is not None else 1.0

    @property
    def allowed_s(self) -> float:
        """The time that the request had in all."""
        timeout_s = self.caller.timeout_s
        cap_s = self.model.request_timeout_s
        return cap_s if timeout_s is None else min(cap_s, timeout_s)

    def note(self, answer: object) -> None:
        """The newest answer; the last one counts."""
        self.seen.answered(answer)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        now = asyncio.get_running_loop().time()
        key, model = self.caller.name, self.model.name
        self._admission.leave(model, key)
        self._admission.drain(model, key).note(now)
        self._admission.drain(model).note(now)
        gate = self._admission.gate(self.model)
        if gate is not None:
            gate.leave(self.share_key)
        tokens = (self.seen.num_prompt_tokens, self.seen.num_generation_tokens)
        self._admission.keeper.settle(key, model, self.num_taken, *tokens)
        self._admission.ended(self, error)


def _check_size(call: Any, limits: LimitsSpec) -> None:
    if isinstance(call, GenerateCall) and call.sampling.n > limits.max_choices:
        message = f"at most {limits.max_choices} choices are given here (got {call.sampling.n})"
        raise RequestFailed(invalid(message, param="n", code="invalid_value"))


def _code_of(error: BaseException) -> str:
    if isinstance(error, RequestFailed):
        return error.failure.code or str(error.failure.status)
    return CLIENT_LEFT if isinstance(error, asyncio.CancelledError | GeneratorExit) else "internal_error"
