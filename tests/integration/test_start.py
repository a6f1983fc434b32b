"""Ray Serve starts although its first proxy is lost on the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import ray

from fastserve_ray.serve.start import ensure_serve, stop_serve
from fastserve_ray.spec.serve import ServeSpec
from tests.integration.faults import CLOSED
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

DEADLINE_S = 60.0


def test_a_proxy_that_is_lost_while_it_starts(ray_cluster: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        losing = pool.submit(lose_proxy)
        try:
            url, owns_serve = ensure_serve(ServeSpec(port=0))
            losing.result()
            assert owns_serve
            wait_for(lambda: is_there(url), DEADLINE_S, "a proxy answers")
        finally:
            stop_serve()


def lose_proxy() -> None:
    """As soon as Ray knows it: it does not run yet."""
    (proxy,) = wait_for(proxies, DEADLINE_S, "a proxy is started")
    ray.kill(ray.get_actor(**proxy))


def proxies() -> list[dict[str, str]]:
    """Names and namespaces."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return [actor for actor in named if "SERVE_PROXY_ACTOR" in actor["name"]]


def is_there(url: str) -> bool:
    try:
        httpx.get(f"{url}/-/healthz", timeout=5)
    except CLOSED:
        return False
    return True
