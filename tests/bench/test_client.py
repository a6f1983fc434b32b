"""One request against a real socket: what is noted of answers, and of everything that is none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.bench.client import Form, Request, send
from fastserve_ray.bench.drive import Driver, Run
from fastserve_ray.bench.records import FailureKind, Record
from fastserve_ray.bench.sse import EventBuffer
from tests.bench.scripted import DONE, Scripted, error, event, serving, stream

if TYPE_CHECKING:
    from aiohttp import web

FORM = Form("m")


def request(number: int = 0, at: float | None = None, num_output: int = 3) -> Request:
    return Request(number, at, 4, num_output, FORM.body("a b c d", num_output))


async def asked(answer: Any, **options: Any) -> Record:
    async with serving(Scripted(answer), **options) as server:
        return await send(server, FORM.path, request(), 0.0)


def answering(*parts: bytes | float) -> Any:
    async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await stream(request, *parts)

    return answer


def failing(status: int, message: str, **headers: str) -> Any:
    async def answer(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return error(status, message, **headers)

    return answer


async def test_an_answer_is_noted() -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 5}
    parts = (event(""), event("a"), 0.05, event("bcd"), event(None, usage=usage), DONE)
    record = await asked(answering(*parts))
    assert record.failure is None
    assert (record.num_prompt_tokens, record.num_output_tokens) == (4, 5)
    assert len(record.event_times) == 2  # an event without text is none
    assert record.gaps[0] > 0
    assert record.sent < record.event_times[0] < record.event_times[1] <= record.ended


async def test_events_count_where_the_server_tells_no_usage() -> None:
    assert (await asked(answering(event("a"), event("b"), DONE))).num_output_tokens == 2


async def test_tokens_without_text_count_too() -> None:
    record = await asked(answering(event(""), event(""), event(None, usage={"completion_tokens": 2}), DONE))
    assert record.failure is None
    assert len(record.event_times) == 2


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (failing(429, "slow down"), FailureKind.RATE_LIMITED, "429: slow down"),
        (failing(503, "full"), FailureKind.OVERLOADED, "503: full"),
        (failing(400, "too long"), FailureKind.REFUSED, "400: too long"),
        (failing(500, "bug"), FailureKind.SERVER_ERROR, "500: bug"),
        (answering(event("a")), FailureKind.BROKEN_STREAM, "without"),
        (answering(event("a"), b'data: {"error": {"message": "lost"}}\n\n', DONE), FailureKind.BROKEN_STREAM, "lost"),
        (answering(event("a"), b"data: {\n\n", DONE), FailureKind.BROKEN_STREAM, "cannot be read"),
        (answering(DONE), FailureKind.EMPTY, "no token"),
    ],
)
async def test_failures_have_kinds(answer: Any, kind: FailureKind, words: str) -> None:
    failure = (await asked(answer)).failure
    assert failure is not None
    assert failure.kind == kind
    assert words in failure.detail


async def test_what_the_server_asks_to_wait_is_noted() -> None:
    failure = (await asked(failing(429, "slow down", **{"retry-after": "7"}))).failure
    assert failure is not None
    assert (failure.status, failure.retry_after_s) == (429, 7.0)


async def test_a_slow_answer_is_a_timeout() -> None:
    failure = (await asked(answering(event("a"), 60.0), timeout_s=0.3)).failure
    assert failure is not None
    assert failure.kind is FailureKind.TIMEOUT


async def test_a_server_that_breaks_off_is_noted() -> None:
    async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = await stream(request, event("a"), 0.05)
        assert request.transport is not None
        request.transport.abort()
        return response

    failure = (await asked(answer)).failure
    assert failure is not None
    assert failure.kind is FailureKind.BROKEN_STREAM


async def test_a_server_that_is_gone_is_noted() -> None:
    async with serving(Scripted()) as server:
        pass
    async with server:
        failure = (await send(server, FORM.path, request(), 0.0)).failure
    assert failure is not None
    assert failure.kind is FailureKind.CONNECTION


def test_events_come_in_pieces() -> None:
    buffer = EventBuffer()
    pieces = [b"data: o", b"ne\n", b"\ndata: two\n\n: comment\n\ndata: th", b"ree\r\n\r\n"]
    assert [buffer.feed(piece) for piece in pieces] == [[], [], ["one", "two"], ["three"]]


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    """Nobody is answered before all have asked."""
    script, all_asked = Scripted(), asyncio.Event()

    async def answer(asked: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        if script.num_open == 10:
            all_asked.set()
        await all_asked.wait()
        return await stream(asked, event("a"), DONE)

    script.answer = answer
    async with serving(script, timeout_s=60.0) as server:
        requests = [request(number, at=0.02 * number) for number in range(10)]
        run = await Driver(server, FORM.path).open_loop(requests, Run(len(requests)))
    assert [record.failure for record in run.records] == [None] * 10
    assert all(record.sent >= record.scheduled == 0.02 * record.number for record in run.records)
    assert run.loop_lags
    assert run.cpu_seconds > 0


async def test_a_closed_loop_has_so_many_users() -> None:
    script = Scripted(answering(event("a"), 0.02, DONE))
    async with serving(script) as server:
        requests = [request(number) for number in range(12)]
        run = await Driver(server, FORM.path).closed_loop(requests, Run(12), users=3, think_s=0.0, duration_s=None)
    assert sorted(record.number for record in run.records) == list(range(12))
    assert script.max_open == 3


async def test_a_user_who_is_refused_waits_as_asked() -> None:
    async with serving(Scripted(failing(429, "slow down", **{"retry-after": "0.2"}))) as server:
        requests = [request(number) for number in range(3)]
        run = await Driver(server, FORM.path).closed_loop(requests, Run(3), users=1, think_s=0.0, duration_s=None)
    first, second, third = (record.sent for record in run.records)
    assert min(second - first, third - second) >= 0.2


async def test_an_interrupted_run_keeps_what_it_has() -> None:
    async def answer(asked: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        wait = 60.0 if body["max_tokens"] == 9 else 0.0
        return await stream(asked, event("a"), wait, DONE)

    script = Scripted(answer)
    async with serving(script) as server:
        answered = asyncio.Event()
        driver = Driver(server, FORM.path, lambda _run, _record: answered.set())
        requests = [request(0, 0.0, 1), request(1, 0.0, 9), request(2, 600.0, 1)]
        running = asyncio.create_task(driver.open_loop(requests, Run(3)))
        await answered.wait()
        running.cancel()
        run = await running
    assert run.was_interrupted
    kinds = {record.number: record.failure and record.failure.kind for record in run.records}
    assert kinds == {0: None, 1: FailureKind.INTERRUPTED}
