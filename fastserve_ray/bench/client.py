"""One request of the load: sent, read event by event, and noted."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from fastserve_ray.bench.records import Failure, FailureKind, Record
from fastserve_ray.bench.server import RequestError
from fastserve_ray.bench.sse import DONE, EventBuffer, parse_chunk

if TYPE_CHECKING:
    from fastserve_ray.bench.server import Server

Endpoint = Literal["completions", "chat"]
PATHS: dict[str, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
EXTRAS = ("ignore_eos", "min_tokens", "stream_options")
"""Fields that make an answer's length certain, and tell it. Servers that do not know them are asked without."""
Prompt = str | list[int]


@dataclass(frozen=True)
class Form:
    """How requests are written for one server."""

    model: str
    endpoint: Endpoint = "completions"
    extras: tuple[str, ...] = EXTRAS
    temperature: float = 0.0

    @property
    def path(self) -> str:
        return PATHS[self.endpoint]

    def body(self, prompt: Prompt, num_tokens: int) -> bytes:
        """The JSON of a request for ``num_tokens``."""
        values: dict[str, Any] = {
            "ignore_eos": True,
            "min_tokens": num_tokens,
            "stream_options": {"include_usage": True},
        }
        asked: dict[str, Any] = {"prompt": prompt}
        if self.endpoint == "chat":
            asked = {"messages": [{"role": "user", "content": prompt}]}
        body = {"model": self.model, **asked, "max_tokens": num_tokens, "temperature": self.temperature}
        return json.dumps({**body, "stream": True, **{name: values[name] for name in self.extras}}).encode()


@dataclass(frozen=True)
class Request:
    """One request, ready to be sent."""

    number: int
    at: float | None
    """Seconds from the start; None in a closed loop."""
    num_prompt_tokens: int
    num_output_tokens: int
    body: bytes


@dataclass
class Reading:
    """What has come of an answer; times are the clock's, not the run's."""

    times: list[float] = field(default_factory=list)
    """Of events with text."""
    choice_times: list[float] = field(default_factory=list)
    """Of all events of the answer; some tokens have no text of their own."""
    usage: dict[str, Any] = field(default_factory=dict)
    is_done: bool = False

    def take(self, data: str, now: float) -> None:
        """One event.

        Raises:
            RequestError: it tells an error, or cannot be read.
        """
        if data == DONE:
            self.is_done = True
            return
        try:
            chunk = parse_chunk(data)
        except ValueError as error:
            raise RequestError(Failure(FailureKind.BROKEN_STREAM, f"an event cannot be read ({error})")) from error
        if chunk.error is not None:
            raise RequestError(Failure(FailureKind.BROKEN_STREAM, chunk.error))
        if chunk.has_text:
            self.times.append(now)
        if chunk.has_choice:
            self.choice_times.append(now)
        self.usage = chunk.usage or self.usage

    def finish(self) -> None:
        """Raises:
        RequestError: the answer is not whole.
        """
        if not self.is_done:
            raise RequestError(Failure(FailureKind.BROKEN_STREAM, "the stream ended without [DONE]"))
        if not self.times and self.usage.get("completion_tokens"):
            self.times = self.choice_times
        if not self.times:
            raise RequestError(Failure(FailureKind.EMPTY, "the answer has no token"))


async def send(server: Server, path: str, request: Request, start: float) -> Record:
    """The record of one request; failures are in it, and its cancellation too.

    Args:
        start: the clock's time at the start of the run.
    """
    reading = Reading()
    failure: Failure | None = None
    sent = perf_counter()
    try:
        await _read(server, path, request, reading)
    except RequestError as error:
        failure = error.failure
    except asyncio.CancelledError:
        failure = Failure(FailureKind.INTERRUPTED, "the run was stopped")
    ended = perf_counter()
    return Record(
        number=request.number,
        scheduled=(sent - start) if request.at is None else request.at,
        sent=sent - start,
        ended=ended - start,
        num_prompt_asked=request.num_prompt_tokens,
        num_output_asked=request.num_output_tokens,
        num_prompt_tokens=reading.usage.get("prompt_tokens"),
        num_output_tokens=reading.usage.get("completion_tokens") or len(reading.times),
        event_times=tuple(time - start for time in reading.times),
        failure=failure,
    )


async def _read(server: Server, path: str, request: Request, reading: Reading) -> None:
    buffer = EventBuffer()
    async with server.stream(path, request.body) as content:
        while piece := await content.readany():
            now = perf_counter()
            for data in buffer.feed(piece):
                reading.take(data, now)
    reading.finish()
