"""Whether a request may go on to a replica, and what is to be put right when it has ended."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

from fastserve_ray.serve.auth.caller import current_caller
from fastserve_ray.serve.auth.table import check_model
from fastserve_ray.serve.calls import GenerateCall
from fastserve_ray.serve.failures import Failure, RequestFailed, invalid
from fastserve_ray.serve.quota.cost import estimate, used
from fastserve_ray.serve.quota.drain import Drain
from fastserve_ray.serve.quota.headers import limit_headers, rate_limited
from fastserve_ray.serve.quota.keeper import LocalKeeper

if TYPE_CHECKING:
    from types import TracebackType

    from fastserve_ray.serve.auth.caller import Caller
    from fastserve_ray.serve.gateway import ServedModel
    from fastserve_ray.serve.quota.keeper import Keeper
    from fastserve_ray.spec.access import LimitsSpec


class Admission:
    """One for a process that answers HTTP.

    Args:
        keeper: where allowances are counted.
    """

    def __init__(self, keeper: Keeper | None = None) -> None:
        self.keeper = keeper or LocalKeeper()
        self._drains: dict[tuple[str, str], Drain] = {}
        """By model and key."""
        self._num_in_flight: Counter[str] = Counter()
        """By key."""

    async def admit(self, model: ServedModel, call: Any) -> Ticket:
        """Let a call of the current caller in.

        Raises:
            RequestFailed: 403, the key may not ask this model; 400, it asks for more than is allowed; 429, the key has
                used up what it may.
        """
        caller = current_caller()
        check_model(caller.key, model.name)
        _check_size(call, model.limits)
        self._check_in_flight(caller, model)
        self._num_in_flight[caller.name] += 1
        try:
            num_tokens = estimate(call)
            verdict = await self.keeper.take(caller.name, model.name, num_tokens)
            caller.headers.update(limit_headers(verdict))
            if verdict.lacking is not None:
                raise RequestFailed(rate_limited(caller.name, verdict))
        except BaseException:
            self._num_in_flight[caller.name] -= 1
            raise
        return Ticket(self, caller, model, call, num_tokens)

    def drain(self, model: str, key: str) -> Drain:
        return self._drains.setdefault((model, key), Drain())

    def num_in_flight(self, key: str) -> int:
        """Requests of a key that have been let in and not ended."""
        return self._num_in_flight[key]

    def leave(self, key: str) -> None:
        self._num_in_flight[key] -= 1

    def _check_in_flight(self, caller: Caller, model: ServedModel) -> None:
        own = caller.key.max_concurrent_requests if caller.key is not None else None
        limit = own or model.limits.max_concurrent_requests
        if limit is None or self._num_in_flight[caller.name] < limit:
            return
        whose = f"the key {caller.name!r} has" if caller.key is not None else "there are"
        message = f"{whose} {limit} requests in flight, as many as it may; try again when one has ended"
        retry_after_s = self.drain(model.name, caller.name).retry_after_s(1, asyncio.get_running_loop().time())
        raise RequestFailed(
            Failure(429, message, code="too_many_concurrent_requests", retry_after_s=retry_after_s, kind="requests")
        )


class Ticket:
    """A call that was let in; a context, at whose end its place is free and its tokens are settled."""

    def __init__(self, admission: Admission, caller: Caller, model: ServedModel, call: Any, num_taken: int) -> None:
        self._admission = admission
        self._caller = caller
        self._model = model
        self._num_taken = num_taken
        self._answer: object = None
        self.call = call
        self.deadline = caller.deadline(model.request_timeout_s, asyncio.get_running_loop().time())
        """On the event loop's clock."""

    def outgoing(self) -> Any:
        """The call as the replica gets it: whose share it uses, and the time that is left."""
        if not isinstance(self.call, GenerateCall):
            return self.call
        return dataclasses.replace(
            self.call,
            share_key=self._caller.name or self.call.share_key,
            timeout_s=max(0.0, self.deadline - asyncio.get_running_loop().time()),
            max_prompt_tokens=self._model.limits.max_prompt_tokens,
        )

    @property
    def allowed_s(self) -> float:
        """The time that the request had in all."""
        timeout_s = self._caller.timeout_s
        cap_s = self._model.request_timeout_s
        return cap_s if timeout_s is None else min(cap_s, timeout_s)

    def note(self, answer: object) -> None:
        """The newest answer; the last one counts."""
        self._answer = answer

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        now = asyncio.get_running_loop().time()
        key, model = self._caller.name, self._model.name
        self._admission.leave(key)
        self._admission.drain(model, key).note(now)
        self._admission.keeper.settle(key, model, self._num_taken, *used(self._answer))


def _check_size(call: Any, limits: LimitsSpec) -> None:
    if isinstance(call, GenerateCall) and call.sampling.n > limits.max_choices:
        message = f"at most {limits.max_choices} choices are given here (got {call.sampling.n})"
        raise RequestFailed(invalid(message, param="n", code="invalid_value"))
