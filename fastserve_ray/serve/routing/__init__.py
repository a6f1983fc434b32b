"""Which replica a request goes to: a pure policy over cached prefixes and outstanding tokens, and the thin router
that Ray Serve calls. No torch; only `router` knows Ray."""

from __future__ import annotations

from fastserve_ray.lazy import LazyTable

ROUTERS = LazyTable(
    "request router",
    "serve.router.kind",
    {
        "prefix-load": "fastserve_ray.serve.routing.router:PrefixLoadRouter",
        "power-of-two": "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter",
    },
)
