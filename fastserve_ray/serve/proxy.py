"""What clients see when the process that wrote their answer is lost: an error in OpenAI's shape.

Serve's proxy stands before the ingress. When the ingress ends, the proxy has nothing to send: without this, a request
is answered with the web server's own words, and a stream just stops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.serve import sse
from fastserve_ray.serve.failures import lost

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


def middlewares() -> list[Middleware]:
    """For ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``."""
    from starlette.middleware import Middleware

    from fastserve_ray.serve.early_body import SendsBody

    return [Middleware(Completed), Middleware(SendsBody)]


class Completed:
    """ASGI middleware: an answer that was not begun becomes an error, a stream of events that was not ended gets one.

    Another answer that was not ended is left so: the web server closes its connection, which clients see as an error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_begun = is_ended = is_of_events = is_left = False

        async def receive_watched() -> Message:
            nonlocal is_left
            message = await receive()
            is_left = is_left or message["type"] == "http.disconnect"
            return message

        async def send_watched(message: Message) -> None:
            nonlocal is_begun, is_ended, is_of_events
            if message["type"] == "http.response.start":
                is_begun, is_of_events = True, _is_of_events(message)
            elif message["type"] == "http.response.body":
                is_ended = not message.get("more_body", False)
            await send(message)

        await self._app(scope, receive_watched, send_watched)
        if is_left or is_ended:
            return
        if not is_begun:
            await _send_error(send)
        elif is_of_events:
            await send({"type": "http.response.body", "body": sse.event(lost().body(), exclude_unset=False)})


def _is_of_events(start: Message) -> bool:
    headers = dict(start.get("headers", ()))
    return bytes(headers.get(b"content-type", b"")).startswith(sse.MEDIA_TYPE.encode())


async def _send_error(send: Send) -> None:
    failure = lost()
    body = failure.body().model_dump_json().encode()
    fields = {"content-type": "application/json", "content-length": str(len(body)), **failure.headers()}
    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": failure.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
