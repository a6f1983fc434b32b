"""The HTTP face with API keys, quotas and limits, over a replica that answers at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from fastserve_ray.serve.api import build_api
from fastserve_ray.serve.auth.access import Access
from fastserve_ray.serve.calls import Frame, GenerateCall, Piece
from fastserve_ray.serve.gateway import Gateway, ServedModel
from fastserve_ray.serve.quota.admission import Admission
from fastserve_ray.spec.access import LimitsSpec
from fastserve_ray.spec.keys import ApiKey, hash_of
from tests.serve.test_api import FakeHandle, FakeResponse, error_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BODY: dict[str, Any] = {"model": "m", "prompt": "p", "max_tokens": 2}
DONE = Frame((Piece(0, "ab", "stop"),), 3, 2, 0.1)
KEYS = (
    ApiKey(name="alice", sha256=hash_of("alice's"), admin=True, weight=2.0),
    ApiKey(name="bob", sha256=hash_of("bob's"), requests_per_minute=2, tokens_per_minute=1000),
    ApiKey(name="carol", sha256=hash_of("carol's"), models=("other",), max_concurrent_requests=1),
    ApiKey(name="dave", sha256=hash_of("dave's"), max_concurrent_requests=1),
)


class Recorder(FakeHandle):
    """Answers every call anew, and keeps the calls."""

    def __init__(self, *items: Any) -> None:
        self.items = items
        self.calls: list[Any] = []
        self.is_called = asyncio.Event()

    def remote(self, call: object) -> FakeResponse:
        self.calls.append(call)
        self.is_called.set()
        return FakeResponse(list(self.items))


@pytest.fixture
def handle() -> Recorder:
    return Recorder(DONE)


def client(handle: FakeHandle, keys: tuple[ApiKey, ...] | None = KEYS, **limits: Any) -> httpx.AsyncClient:
    spec = LimitsSpec(**limits)
    model = ServedModel("m", "text-generation", 0, request_timeout_s=5.0, limits=spec)
    gateway = Gateway({"m": model}, {"m": handle}, Admission())
    app = build_api(gateway, access=Access(keys, spec.max_body_bytes))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test")


def by(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}'s"}


async def complete(http: httpx.AsyncClient, name: str, **fields: Any) -> httpx.Response:
    return await http.post("/v1/completions", json={**BODY, **fields}, headers=by(name))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": "alice's"}, "missing_api_key"),
        ({"authorization": "Basic alice's"}, "missing_api_key"),
        ({"authorization": "Bearer "}, "missing_api_key"),
        ({"authorization": "Bearer mallory's"}, "invalid_api_key"),
        ({"authorization": f"Bearer {hash_of('alice' + chr(39) + 's')}"}, "invalid_api_key"),
    ],
)
async def test_without_a_known_key_nothing_is_told(handle: Recorder, headers: dict[str, str], code: str) -> None:
    async with client(handle) as http:
        for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/v1/usage"), ("GET", "/x")):
            response = await http.request(method, path, headers=headers)
            assert (response.status_code, error_of(response)["code"]) == (401, code)
            assert response.headers["www-authenticate"] == "Bearer"
            assert "mallory" not in response.text
    assert handle.calls == []


async def test_a_known_key_is_served_and_its_name_is_its_share(handle: Recorder) -> None:
    async with client(handle) as http:
        assert (await complete(http, "alice", user="somebody else")).status_code == 200
        assert (await complete(http, "alice", stream=True)).text.endswith("data: [DONE]\n\n")
        for path in ("/health", "/version", "/openapi.json"):
            assert (await http.get(path)).status_code == 200
        assert (await complete(http, "bob")).status_code == 200
    shares = [(call.share_key, call.share_weight) for call in handle.calls]
    assert shares == [("alice", 2.0), ("alice", 2.0), ("bob", 1.0)]


async def test_a_key_may_ask_its_models_only(handle: Recorder) -> None:
    async with client(handle) as http:
        response = await complete(http, "carol")
    assert response.status_code == 403
    assert error_of(response)["code"] == "model_not_allowed"
    assert handle.calls == []


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_per_minute(handle: Recorder, stream: bool) -> None:
    async with client(handle) as http:
        first = await complete(http, "bob", stream=stream)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert (await complete(http, "bob", stream=stream)).status_code == 200
        refused = await complete(http, "bob", stream=stream)
        other = await complete(http, "alice", stream=stream)
    assert refused.status_code == 429
    assert error_of(refused)["code"] == "rate_limit_exceeded"
    assert error_of(refused)["type"] == "requests"
    assert 25 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert other.status_code == 200
    assert "x-ratelimit-limit-requests" not in other.headers


async def test_tokens_per_minute(handle: Recorder) -> None:
    async with client(handle) as http:
        never = await complete(http, "bob", max_tokens=2000)
        served = await complete(http, "bob", max_tokens=900)
        settled = await complete(http, "bob", max_tokens=990)
    assert (never.status_code, error_of(never)["type"], "retry-after" in never.headers) == (429, "tokens", False)
    assert served.headers["x-ratelimit-remaining-tokens"] == "99"
    assert settled.status_code == 200, "of 901 tokens that were taken 5 were used"


async def test_usage_of_a_key_and_of_all(handle: Recorder) -> None:
    async with client(handle) as http:
        for name in ("alice", "alice", "bob"):
            await complete(http, name, stream=name == "bob")
        own = (await http.get("/v1/usage", headers=by("bob"))).json()["data"]
        everyone = (await http.get("/v1/usage", headers=by("alice"))).json()["data"]
    facts = {"key": "bob", "model": "m", "requests": 1, "refused": 0, "prompt_tokens": 3, "completion_tokens": 2}
    assert own == [facts]
    assert {used["key"]: used["prompt_tokens"] for used in everyone} == {"alice": 6, "bob": 3}


async def test_a_key_has_so_many_requests_in_flight_and_no_more() -> None:
    handle = Recorder(60.0)
    async with client(handle) as http:
        waiting = asyncio.create_task(complete(http, "dave"))
        await handle.is_called.wait()
        handle.items = (DONE,)
        refused = await complete(http, "dave")
        assert (await complete(http, "alice")).status_code == 200
        waiting.cancel()
        await asyncio.wait([waiting])
        assert (await complete(http, "dave")).status_code == 200, "its client left, so the place is free"
    assert (refused.status_code, error_of(refused)["code"]) == (429, "too_many_concurrent_requests")
    assert int(refused.headers["retry-after"]) >= 1


async def test_the_place_of_a_request_that_failed_is_free(handle: Recorder) -> None:
    async with client(Recorder(RuntimeError("bug"))) as http:
        assert [(await complete(http, "dave", stream=True)).status_code for _ in range(3)] == [500] * 3


async def test_larger_bodies_are_refused(handle: Recorder) -> None:
    async def in_parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    async with client(handle, None, max_body_bytes=1000) as http:
        whole = await http.post("/v1/completions", json={**BODY, "prompt": "p" * 1000})
        parts = await http.post("/v1/completions", content=in_parts())
        assert (await http.post("/v1/completions", json=BODY)).status_code == 200
    for response in (whole, parts):
        assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
    assert len(handle.calls) == 1


async def test_more_choices_than_allowed_are_refused(handle: Recorder) -> None:
    async with client(handle, None, max_choices=2) as http:
        refused = await http.post("/v1/completions", json={**BODY, "n": 3})
        assert (await http.post("/v1/completions", json={**BODY, "n": 2})).status_code == 200
    assert (refused.status_code, error_of(refused)["param"]) == (400, "n")


async def test_limits_reach_the_replica(handle: Recorder) -> None:
    async with client(handle, None, max_prompt_tokens=7) as http:
        await http.post("/v1/completions", json={**BODY, "user": "u"}, headers={"x-request-timeout-s": "1.5"})
        await http.post("/v1/completions", json=BODY, headers={"x-request-timeout-s": "100"})
    short, capped = handle.calls
    assert isinstance(short, GenerateCall)
    assert (short.max_prompt_tokens, short.share_key) == (7, "u")
    assert short.timeout_s is not None
    assert 1.0 < short.timeout_s <= 1.5
    assert capped.timeout_s <= 5.0, "request_timeout_s is the cap"


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", ""])
async def test_a_deadline_that_is_none_is_refused(handle: Recorder, value: str) -> None:
    async with client(handle, None) as http:
        response = await http.post("/v1/completions", json=BODY, headers={"x-request-timeout-s": value})
    assert response.status_code == 400
    assert "x-request-timeout-s" in error_of(response)["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_ends_at_the_deadline_it_asks_for(stream: bool) -> None:
    handle = Recorder(60.0, DONE)
    async with client(handle, None) as http:
        headers = {"x-request-timeout-s": "0.05"}
        response = await http.post("/v1/completions", json={**BODY, "stream": stream}, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (504, "timeout")
    assert "0.05" in error_of(response)["message"]
