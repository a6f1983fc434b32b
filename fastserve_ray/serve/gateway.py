"""From the ingress to a replica: find the model, keep the deadline, and turn what goes wrong into failures.

A request that its client leaves, or whose time is up, is cancelled in the replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from fastserve_ray.serve.calls import Frame, GateLoad, GenerateCall, ReplicaStatus
from fastserve_ray.serve.failures import (
    OVERLOADED,
    Failure,
    RequestFailed,
    internal,
    invalid,
    lost,
    overloaded,
    timed_out,
    unavailable,
    unknown_model,
)
from fastserve_ray.serve.quota.admission import Admission
from fastserve_ray.serve.retries import Tries
from fastserve_ray.serve.routing.work import SENDER, WorkEstimate, rough_work
from fastserve_ray.spec.access import LimitsSpec, RequestLog

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from fastserve_ray.serve.quota.admission import Ticket
    from fastserve_ray.serve.quota.gate import Gate
    from fastserve_ray.spec.model import TaskName

LEAVING = (asyncio.CancelledError, GeneratorExit, TimeoutError)
"""Nobody waits for the answer any more."""
SILENCE_S = 15.0
"""A replica that has begun to answer and gives no sign of life for so long is lost: its node is gone, or it hangs."""
STREAMED: dict[str, Any] = {
    "stream": True,
    "_by_reference": False,
    "request_serialization": "pickle",
    "response_serialization": "pickle",
}
"""How frames travel: over Serve's gRPC, where an item costs half of what it costs as a Ray object."""
LOOK_AGAIN_S = 2.0
"""How old the count of replicas may be by which requests are let through, and what they know of those that wait."""
STATUS_TIMEOUT_S = 2.0
"""A replica that does not tell its status in this time is left out."""
ZERO_TIMEOUT_S = 0.5
"""The same, where there may be no replica at all; probes of Kubernetes wait for a second."""
ENDPOINTS: dict[TaskName, str] = {
    "text-generation": "/v1/completions or /v1/chat/completions",
    "text-classification": "/v1/classify",
    "text-embedding": "/v1/embeddings",
}


@dataclass(frozen=True)
class ServedModel:
    """One model of the application."""

    name: str
    task: TaskName
    created: int
    """Unix time of the deployment."""
    request_timeout_s: float
    limits: LimitsSpec = field(default_factory=LimitsSpec)
    max_ongoing_requests: int = 64
    """In one replica."""
    max_queued_requests: int = 256
    has_fair_queue: bool = False
    """Requests wait at a gate that is fair between keys; otherwise in Serve's queue."""
    request_log: RequestLog = "off"
    scales_to_zero: bool = False
    """Without replicas it is as ready as it can be: a request starts one, and is held until then."""


class Gateway:
    """Calls replicas through Serve's handles; one for all models of the application.

    Args:
        caller: id of this process's actor, with whose end its calls end too.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        handles: Mapping[str, Any],
        admission: Admission | None = None,
        *,
        caller: str | None = None,
    ) -> None:
        self._caller = caller
        self.models = models
        self.admission = admission or Admission()
        self._handles = handles
        self._stream_handles: dict[str, Any] = {}
        self._estimates: defaultdict[str, WorkEstimate] = defaultdict(WorkEstimate)
        self._look_again: defaultdict[str, float] = defaultdict(float)
        """By model, when its replicas are to be counted again, on the event loop's clock."""
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._answered: set[str] = set()
        """Models of which a replica has been seen."""

    def find(self, name: str, task: TaskName) -> ServedModel:
        """The model of this name, which must be of this task.

        Raises:
            RequestFailed: unknown (404), or of another task (400).
        """
        model = self.models.get(name)
        if model is None:
            raise RequestFailed(unknown_model(name, list(self.models)))
        if model.task != task:
            message = f"{name!r} is a {model.task} model; use {ENDPOINTS[model.task]}"
            raise RequestFailed(invalid(message, param="model", code="wrong_task"))
        return model

    async def call(self, model: ServedModel, method: str, argument: object) -> Any:
        """One answer of one replica; of another one when that is lost.

        Raises:
            RequestFailed: any failure.
        """
        self._look_after_gate(model)
        with await self.admission.admit(model, argument, self._expected_tokens(model, argument)) as ticket:
            answer = await self._answer(model, method, ticket)
            ticket.note(answer)
            if isinstance(argument, GenerateCall) and isinstance(answer, Frame):
                self._estimates[model.name].learn(argument, answer)
            return answer

    async def _answer(self, model: ServedModel, method: str, ticket: Ticket) -> Any:
        tries = Tries(ticket.deadline)
        while True:
            outgoing = self._with_work(model, ticket.outgoing())
            try:
                return await self._read_answer(getattr(self._handles[model.name], method).remote(outgoing), ticket)
            except RequestFailed as failed:
                await tries.pause_after(failed)

    async def _read_answer(self, response: Any, ticket: Ticket) -> Any:
        try:
            async with asyncio.timeout_at(ticket.deadline):
                answer = await response
        except LEAVING as error:
            _cancel(response)
            if isinstance(error, TimeoutError):
                raise RequestFailed(timed_out(ticket.allowed_s)) from error
            raise
        except Exception as error:
            raise RequestFailed(self._with_wait(_failure_of(error), ticket.model)) from error
        if isinstance(answer, Failure):
            raise RequestFailed(self._with_wait(answer, ticket.model))
        return answer

    async def stream(self, model: ServedModel, call: GenerateCall) -> AsyncGenerator[Frame, None]:
        """Frames of one replica; of another one when that is lost before its first. Closing the generator cancels the
        call.

        Raises:
            RequestFailed: any failure, before or between frames.
        """
        self._look_after_gate(model)
        with await self.admission.admit(model, call, self._expected_tokens(model, call)) as ticket:
            async with contextlib.aclosing(self._frames(model, ticket)) as frames:
                last = None
                async for last in frames:
                    ticket.note(last)
                    yield last
                if last is not None:
                    self._estimates[model.name].learn(call, last)

    async def _frames(self, model: ServedModel, ticket: Ticket) -> AsyncGenerator[Frame, None]:
        tries, stream = Tries(ticket.deadline), self._stream_of(model)
        while True:
            response = stream.remote(self._with_work(model, ticket.outgoing()))
            try:
                async with contextlib.aclosing(self._read_frames(response, ticket)) as frames:
                    async for frame in frames:
                        tries.end()
                        yield frame
            except RequestFailed as failed:
                await tries.pause_after(failed)
            else:
                return

    def _stream_of(self, model: ServedModel) -> Any:
        if model.name not in self._stream_handles:
            self._stream_handles[model.name] = self._handles[model.name].options(**STREAMED).stream
        return self._stream_handles[model.name]

    async def _read_frames(self, response: Any, ticket: Ticket) -> AsyncGenerator[Frame, None]:
        is_done, clock, silent_until = False, asyncio.get_running_loop().time, math.inf
        try:
            while not is_done:
                async with asyncio.timeout_at(min(ticket.deadline, silent_until)):
                    item = await anext(response, None)
                silent_until = clock() + SILENCE_S
                is_done = item is None or isinstance(item, Failure)
                if isinstance(item, Failure):
                    raise RequestFailed(self._with_wait(item, ticket.model))
                if item is not None and item.pieces:
                    yield item
                    silent_until = clock() + SILENCE_S
        except LEAVING as error:
            _cancel(response)
            if isinstance(error, TimeoutError):
                is_lost = silent_until < ticket.deadline
                raise RequestFailed(lost() if is_lost else timed_out(ticket.allowed_s)) from error
            raise
        except RequestFailed:
            raise
        except Exception as error:
            raise RequestFailed(self._with_wait(_failure_of(error), ticket.model)) from error

    def _with_work(self, model: ServedModel, call: Any) -> Any:
        if not isinstance(call, GenerateCall):
            return call
        return dataclasses.replace(call, work=self._estimates[model.name].expect(call), caller=self._caller)

    def _with_wait(self, failure: Failure, model: ServedModel) -> Failure:
        """When the client of an overloaded model should come back: when those before it will have ended."""
        if failure.code != OVERLOADED:
            return failure
        num_ahead = self.admission.num_in_flight(model.name) - 1
        return dataclasses.replace(failure, retry_after_s=self.admission.retry_after_s(model.name, num_ahead))

    def _expected_tokens(self, model: ServedModel, call: object) -> float:
        if isinstance(call, GenerateCall):
            work = self._estimates[model.name].expect(call)
        else:
            work = rough_work(getattr(call, "texts", ()))
        return work.num_prompt_tokens + work.num_completion_tokens

    def _look_after_gate(self, model: ServedModel) -> None:
        """Let the gate know how many replicas there are, and the replicas what waits; every `LOOK_AGAIN_S` while
        requests come or wait."""
        gate, now = self.admission.gate(model), asyncio.get_running_loop().time()
        if gate is None or now < self._look_again[model.name] or model.name in self._looking:
            return
        self._look_again[model.name] = now + LOOK_AGAIN_S
        self._looking[model.name] = task = asyncio.create_task(self._look(gate, model))
        task.add_done_callback(lambda _: self._looking.pop(model.name))

    async def _look(self, gate: Gate, model: ServedModel) -> None:
        num_replicas = max(1, gate.limit // model.max_ongoing_requests)
        while True:
            num_tokens = gate.num_waiting_tokens
            load = GateLoad(SENDER, num_tokens / num_replicas)
            found = await self._ask(model, STATUS_TIMEOUT_S, load)
            if found:
                num_replicas = len(found)
                gate.resize(num_replicas * model.max_ongoing_requests)
            if not num_tokens:
                return
            await asyncio.sleep(LOOK_AGAIN_S)

    async def is_at_zero(self, model: ServedModel) -> bool | None:
        """Whether the model has no replica as it may; None when it has none and should.

        It answers before a probe's usual time is up, also where Serve knows of no replica yet and waits for one. A
        replica that is full of requests answers nothing else; one that was there before counts as such.
        """
        found = await self._ask(model, ZERO_TIMEOUT_S if model.scales_to_zero else STATUS_TIMEOUT_S)
        if found or (found is None and model.name in self._answered):
            self._answered.add(model.name)
            return False
        return True if model.scales_to_zero else None

    async def statuses(self, model: ServedModel) -> list[ReplicaStatus]:
        """What each running replica says of itself; empty when there is none."""
        return await self._ask(model, STATUS_TIMEOUT_S) or []

    async def _ask(
        self, model: ServedModel, timeout_s: float, load: GateLoad | None = None
    ) -> list[ReplicaStatus] | None:
        """None when the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                broadcast = self._handles[model.name].broadcast("status", load)
                found: list[ReplicaStatus] = await broadcast.results_async(timeout_s=timeout_s)
        except TimeoutError:
            return None
        except (RayError, RayServeException):
            return []
        return found


def _cancel(response: Any) -> None:
    """Cancel a call in its replica; one that has ended meanwhile raises what it ended with, which is of no use now."""
    with contextlib.suppress(RayError, RayServeException):
        response.cancel()


def _failure_of(error: Exception) -> Failure:
    """What Serve or Ray say, for the client."""
    if isinstance(error, BackPressureError):
        return overloaded("too many requests are waiting for this model; try again later")
    if isinstance(error, DeploymentUnavailableError):
        return unavailable("the model is not running: its replicas do not start")
    if isinstance(error, RayActorError):
        return lost(error.actor_id)
    if isinstance(error, TaskCancelledError):
        return unavailable("this request was cancelled in its replica; try again")
    return internal(f"{type(error).__name__} while the request ran; see the server's log")
