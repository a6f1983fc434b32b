"""Browsers: whose web pages may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from fastserve_ray.serve.api import build_api
from fastserve_ray.serve.auth.access import Access, access_of
from fastserve_ray.serve.gateway import Gateway
from fastserve_ray.spec.keys import ApiKey, hash_of
from fastserve_ray.spec.serve import ServeSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = "https://chat.example.org"
ASKS_FIRST = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization",
}
KEYS = (ApiKey(name="alice", sha256=hash_of("alice's")),)


def client(origins: Sequence[str]) -> httpx.AsyncClient:
    app = build_api(Gateway({}, {}), access=Access(KEYS, cors_origins=tuple(origins)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize("origins", [[PAGE], ["*"]])
async def test_a_named_origin_may_ask_and_read_the_request_id(origins: list[str]) -> None:
    async with client(origins) as http:
        first = await http.options("/v1/completions", headers=ASKS_FIRST)
        refused = await http.post("/v1/completions", json={}, headers={"origin": PAGE})
    assert first.status_code == 200
    assert first.headers["access-control-allow-origin"] in (PAGE, "*")
    assert "authorization" in first.headers["access-control-allow-headers"]
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] in (PAGE, "*")
    assert "x-request-id" in refused.headers["access-control-expose-headers"]


@pytest.mark.parametrize("origins", [[], ["https://other.example.org"]])
async def test_no_other_page_may(origins: list[str]) -> None:
    async with client(origins) as http:
        first = await http.options("/v1/completions", headers=ASKS_FIRST)
        answer = await http.get("/health", headers={"origin": PAGE})
    assert first.status_code >= 400
    assert "access-control-allow-origin" not in answer.headers


def test_the_key_reaches_the_door() -> None:
    spec = ServeSpec.model_validate({"cors_origins": [PAGE]})
    assert access_of(spec).cors_origins == (PAGE,)
