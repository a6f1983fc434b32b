"""What every answer gets: the time it took as a header, and a count in the metrics.

``x-request-id`` is echoed or made by Ray Serve's proxy, which passes it to the application as a request header.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

from fastserve_ray.serve.auth.caller import current_caller

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from fastserve_ray.serve.metrics import ServerMetrics

CLIENT_CLOSED = 499
"""Status in the metrics for a request that its client left before the answer began (nginx's number)."""


class Observed:
    """ASGI middleware: ``openai-processing-ms``, request count and latency."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        status = CLIENT_CLOSED

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                milliseconds = round((perf_counter() - start) * 1000)
                MutableHeaders(scope=message)["openai-processing-ms"] = str(milliseconds)
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        finally:
            route = route_of(scope)
            self._metrics.count("requests", route, str(status), current_caller().label)
            self._metrics.observe("request_duration_seconds", perf_counter() - start, route)


def route_of(scope: Scope) -> str:
    """The route's pattern; one name for all paths that are not served, so that scans do not fill the metrics."""
    return str(getattr(scope.get("route"), "path", "unknown"))
