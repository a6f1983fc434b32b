"""Small bodies that go with their request, and all others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.serve import early_body
from fastserve_ray.serve.early_body import KEY, MAX_BYTES, FindsBody, SendsBody

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

LEFT: Message = {"type": "http.disconnect"}


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


class Seen:
    """An application: what it receives until the client has left, and its scope."""

    def __init__(self) -> None:
        self.scope: Scope = {}
        self.messages: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, _: Send) -> None:
        self.scope = scope
        while not self.messages or self.messages[-1] != LEFT:
            self.messages.append(await receive())


async def ask(app: Any, *messages: Message, scope: Scope, pause_s: float = 0.0) -> None:
    waiting = list(messages)

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        return waiting.pop(0)

    async def send(_: Message) -> None:
        raise AssertionError("nothing is sent")

    await app(scope, receive, send)


def request(length: int | None) -> Scope:
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    return {"type": "http", "headers": headers}


async def sent(*messages: Message, length: int | None, pause_s: float = 0.0) -> Seen:
    """What lies behind the proxy."""
    seen = Seen()
    await ask(SendsBody(seen), *messages, LEFT, scope=request(length), pause_s=pause_s)
    return seen


async def test_a_small_body_is_in_the_scope_and_can_still_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_body, "WAIT_S", 60.0)
    parts = (part(b"ab", more=True), part(b"c"))
    seen = await sent(*parts, length=3)
    assert seen.scope[KEY] == b"abc"
    assert seen.messages == [*parts, LEFT]


@pytest.mark.parametrize("length", [None, 0, MAX_BYTES + 1])
async def test_another_body_is_left_to_be_asked_for(length: int | None) -> None:
    seen = await sent(part(b"abc"), length=length)
    assert KEY not in seen.scope
    assert seen.messages == [part(b"abc"), LEFT]


async def test_a_slow_body_is_not_waited_for() -> None:
    parts = (part(b"ab", more=True), part(b"c"))
    seen = await sent(*parts, length=3, pause_s=0.1)
    assert KEY not in seen.scope
    assert seen.messages == [*parts, LEFT]


async def test_a_client_that_leaves_before_its_body_is_whole_has_sent_none() -> None:
    seen = await sent(part(b"ab", more=True), length=3)
    assert KEY not in seen.scope
    assert seen.messages == [part(b"ab", more=True), LEFT]


async def test_the_ingress_reads_the_body_once() -> None:
    seen = Seen()
    await ask(FindsBody(seen), part(b"ab", more=True), part(b"c"), LEFT, scope={**request(3), KEY: b"abc"})
    assert seen.messages == [part(b"abc"), LEFT]


async def test_without_a_body_in_the_scope_the_ingress_asks_for_it() -> None:
    seen = Seen()
    await ask(FindsBody(seen), part(b"abc"), LEFT, scope=request(3))
    assert seen.messages == [part(b"abc"), LEFT]
