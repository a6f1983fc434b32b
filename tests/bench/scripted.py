"""A server of OpenAI's form that does what a test says: refuses, stops, breaks off, waits."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from fastserve_ray.bench.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def error(status: int, message: str, **headers: str) -> web.Response:
    """In OpenAI's shape."""
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


def event(text: str | None, **more: Any) -> bytes:
    choices = [] if text is None else [{"index": 0, "text": text}]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


async def stream(request: web.Request, *parts: bytes | float) -> web.StreamResponse:
    """Bytes are sent, numbers are slept."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for part in parts:
        if isinstance(part, bytes):
            await response.write(part)
        else:
            await asyncio.sleep(part)
    return response


async def answer_in_full(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """As many tokens as are asked, each in its own event, with the usage."""
    count = body["max_tokens"]
    usage = {"prompt_tokens": len(body["prompt"].split()), "completion_tokens": count}
    return await stream(request, *(event("x") for _ in range(count)), event(None, usage=usage), DONE)


@dataclass
class Scripted:
    """What the server does, and what it was asked."""

    answer: Any = answer_in_full
    models: tuple[str, ...] = ("m",)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    num_open: int = 0
    max_open: int = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/completions", self._complete)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("authorization"))
        return web.json_response({"data": [{"id": name} for name in self.models]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        """A token a word, and one before."""
        words = (await request.json())["prompt"].split()
        return web.json_response({"tokens": [0, *(1 + sum(map(ord, word)) for word in words)]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.num_open += 1
        self.max_open = max(self.max_open, self.num_open)
        try:
            found: web.StreamResponse = await self.answer(request, body)
        finally:
            self.num_open -= 1
        return found


@asynccontextmanager
async def serving(script: Scripted, **options: Any) -> AsyncIterator[Server]:
    """A client of a running server."""
    async with TestServer(script.app()) as running, Server(str(running.make_url("/")), **options) as server:
        yield server
