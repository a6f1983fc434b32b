"""The door of the server: API keys, the size of bodies and the deadline, before anything is parsed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from fastserve_ray.serve.auth.caller import Caller, set_caller
from fastserve_ray.serve.failures import Failure, RequestFailed, invalid

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from fastserve_ray.serve.auth.table import KeyTable

TIMEOUT_HEADER = "x-request-timeout-s"
OPEN_PATHS = frozenset({"/health", "/ready", "/version", "/metrics", "/docs", "/openapi.json"})
"""For probes, scrapers and people; nothing there runs a model or names a prompt."""


class Door:
    """ASGI middleware.

    Args:
        keys: None where everybody may ask.
        max_body_bytes: a larger body is answered with 413.
    """

    def __init__(self, app: ASGIApp, keys: KeyTable | None, max_body_bytes: int) -> None:
        self._app = app
        self._keys = keys
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        set_caller(Caller())  # until it is known who asks; one task may answer several requests
        try:
            caller = self._caller(scope)
            body = await self._body(scope, receive)
        except RequestFailed as failed:
            await _refuse(failed.failure)(scope, receive, send)
            return
        if body is None:
            return
        set_caller(caller)

        async def send_with_quota(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(caller.headers)
            await send(message)

        await self._app(scope, _replayed(body, receive), send_with_quota)

    def _caller(self, scope: Scope) -> Caller:
        headers = Headers(scope=scope)
        key = None
        if self._keys is not None and path_of(scope) not in OPEN_PATHS:
            key = self._keys.find(headers.get("authorization"))
        return Caller(
            key,
            headers.get("x-request-id", ""),
            asyncio.get_running_loop().time(),
            timeout_of(headers.get(TIMEOUT_HEADER)),
        )

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None when the client has left before its end."""
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise RequestFailed(too_large(self._max_body_bytes))
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body_bytes:
                raise RequestFailed(too_large(self._max_body_bytes))
            if not message.get("more_body", False):
                return b"".join(parts)


def path_of(scope: Scope) -> str:
    """The path below the application's route prefix."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def timeout_of(header: str | None) -> float | None:
    """Raises:
    RequestFailed: 400, it is no number of seconds.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise RequestFailed(invalid(f"{TIMEOUT_HEADER} must be a number of seconds above 0", code="invalid_value"))
    return seconds


def too_large(max_body_bytes: int) -> Failure:
    return Failure(413, f"the body is larger than {max_body_bytes} bytes", code="request_too_large")


def _refuse(failure: Failure) -> Response:
    headers = failure.headers() | ({"www-authenticate": "Bearer"} if failure.status == 401 else {})
    return Response(failure.body().model_dump_json(), failure.status, headers, media_type="application/json")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` first, and then what comes after it."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
