"""A request's body goes from Serve's proxy to the ingress with the request.

Serve's own way is that the ingress asks the proxy for it, a call between two actors and back, before it can begin. So
the proxy reads a small body first and writes it into the request's scope, which no client can do. It can still be asked
for, as other applications behind the same proxy do.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEY = "fastserve.body"
"""In the scope."""
MAX_BYTES = 64 * 1024
"""A larger body is fetched by the ingress, once it knows that it wants it."""
WAIT_S = 0.01
"""A body mostly comes with the headers; for one that does not, a request waits no longer."""


class SendsBody:
    """ASGI middleware of the proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not 0 < _length(scope) <= MAX_BYTES:
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []
        if await _read(receive, messages):
            scope = {**scope, KEY: b"".join(message.get("body", b"") for message in messages)}

        async def receive_again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, receive_again, send)


class FindsBody:
    """ASGI middleware of the ingress."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if KEY not in scope:
            await self._app(scope, receive, send)
            return
        found: list[bytes] = [scope[KEY]]

        async def receive_found() -> Message:
            if found:
                return {"type": "http.request", "body": found.pop(), "more_body": False}
            while (message := await receive())["type"] == "http.request":  # the same body, as Serve brings it
                pass
            return message

        await self._app(scope, receive_found, send)


def _length(scope: Scope) -> int:
    """Of the body, as its header tells; 0 where it does not."""
    told = Headers(scope=scope).get("content-length", "")
    return int(told) if told.isdecimal() else 0


async def _read(receive: Receive, messages: list[Message]) -> bool:
    """Append what comes to ``messages``; True when that is the whole body."""
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                messages.append(await receive())
                if messages[-1]["type"] != "http.request":
                    return False
                if not messages[-1].get("more_body", False):
                    return True
    except TimeoutError:
        return False
