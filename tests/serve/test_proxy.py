"""Answers whose writer is lost, as Serve's proxy hands them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from ray._common.utils import import_attr

from fastserve_ray.serve.early_body import SendsBody
from fastserve_ray.serve.environment import ENVIRONMENT
from fastserve_ray.serve.proxy import Completed

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]


def start(headers: list[tuple[bytes, bytes]]) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": headers}


def body(text: str, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}


async def answer(*messages: Message) -> httpx.Response:
    """What a client gets from an application that sends ``messages`` and returns."""

    async def application(_: Scope, __: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    transport = httpx.ASGITransport(Completed(application))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/")


def error_in(text: str) -> dict[str, Any]:
    import json

    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


async def test_an_answer_that_was_not_begun_is_an_error() -> None:
    response = await answer()
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.headers["content-type"] == "application/json"
    assert error_in(response.text)["code"] == "unavailable"


async def test_a_stream_that_was_not_ended_ends_with_an_error() -> None:
    response = await answer(start(EVENTS), body("data: {}\n\n", more=True))
    first, last, rest = response.text.split("\n\n")
    assert (first, rest) == ("data: {}", "")
    assert error_in(last.removeprefix("data: "))["type"] == "server_error"


@pytest.mark.parametrize("headers", [EVENTS, JSON])
async def test_a_whole_answer_stays_as_it_is(headers: list[tuple[bytes, bytes]]) -> None:
    response = await answer(start(headers), body("a", more=True), body("b", more=False))
    assert (response.status_code, response.text) == (200, "ab")


async def test_half_an_answer_is_not_made_a_whole_one() -> None:
    """httpx' transport asserts that an answer ends; the web server closes the connection."""
    with pytest.raises(AssertionError):
        await answer(start(JSON), body("{", more=True))


def test_serve_finds_it() -> None:
    first, second = import_attr(ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"])()
    assert (first.cls, second.cls) == (Completed, SendsBody)
