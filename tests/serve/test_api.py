"""The HTTP face over replicas that misbehave: what a real one does rarely."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.serve.exceptions import BackPressureError

from fastserve_ray.serve import gateway
from fastserve_ray.serve.api import build_api
from fastserve_ray.serve.calls import Frame, Piece, ReplicaStatus
from fastserve_ray.serve.failures import internal, invalid, lost
from fastserve_ray.serve.frames import merge_frames
from fastserve_ray.serve.gateway import Gateway, ServedModel
from fastserve_ray.serve.metrics import ServerMetrics
from fastserve_ray.serve.retries import MAX_TRIES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

BODY = {"model": "m", "prompt": "p"}
FIRST = Frame((Piece(0, "a"),), 3, 1, 0.1)
LAST = Frame((Piece(0, "b", "stop"),), 3, 2)
ALIVE = Frame((), 3, 1)
ACTOR_ID = "0a" * 16


class FakeResponse:
    """Serve's response to one call: gives ``items``; exceptions among them are raised, numbers are slept."""

    def __init__(self, items: list[Any]) -> None:
        self.is_cancelled = False
        self._failure: Exception | None = None
        self._items = self._give(items)

    async def _give(self, items: list[Any]) -> AsyncGenerator[Any, None]:
        for item in items:
            if isinstance(item, float):
                await asyncio.sleep(item)
            elif isinstance(item, Exception):
                self._failure = item
                raise item
            else:
                yield item

    def __await__(self) -> Any:
        return anext(self._items).__await__()

    async def __anext__(self) -> Any:
        return await anext(self._items)

    def cancel(self) -> None:
        """As Serve's: it raises what a call that has failed already ended with."""
        self.is_cancelled = True
        if self._failure is not None:
            raise self._failure


class FakeHandle:
    """Serve's handle of a deployment, every method of which answers ``items``."""

    def __init__(self, *items: Any) -> None:
        self._items = list(items)
        self.num_calls = 0
        self.is_called = asyncio.Event()

    def options(self, **_: Any) -> FakeHandle:
        return self

    def __getattr__(self, _: str) -> FakeHandle:
        return self

    def remote(self, _: object) -> FakeResponse:
        self.num_calls += 1
        self.is_called.set()
        self.response = FakeResponse(self._next_items())
        return self.response

    def _next_items(self) -> list[Any]:
        return self._items


class UnluckyHandle(FakeHandle):
    """The first calls go to replicas that are lost and end so; the next answers ``items``."""

    def __init__(self, losses: Sequence[Any], *items: Any) -> None:
        super().__init__(*items)
        self._losses = losses

    def _next_items(self) -> list[Any]:
        return [self._losses[self.num_calls - 1]] if self.num_calls <= len(self._losses) else self._items


def answers(stream: bool) -> list[Frame]:
    return [FIRST, LAST] if stream else [merge_frames([FIRST, LAST])]


def client(handle: FakeHandle, metrics: ServerMetrics | None = None, *, timeout_s: float = 0.2) -> httpx.AsyncClient:
    model = ServedModel("m", "text-generation", 0, request_timeout_s=timeout_s)
    app = build_api(Gateway({"m": model}, {"m": handle}), metrics)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test")


@pytest.fixture(autouse=True)
async def _no_task_is_left() -> AsyncIterator[None]:
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def answer(*items: Any, stream: bool = False, body: object = None, timeout_s: float = 0.2) -> httpx.Response:
    async with client(FakeHandle(*items), timeout_s=timeout_s) as http:
        return await http.post("/v1/completions", json=body or {**BODY, "stream": stream})


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("item", "status", "code"),
    [
        (BackPressureError(5, 5), 503, "overloaded"),
        (RayActorError(), 503, "unavailable"),
        (RuntimeError("bug"), 500, "internal_error"),
        (invalid("no", param="prompt", code="x"), 400, "x"),
        (internal("logits are not finite"), 500, "internal_error"),
        (1.0, 504, "timeout"),
    ],
)
async def test_failures_before_the_first_token_are_statuses(item: Any, status: int, code: str, stream: bool) -> None:
    response = await answer(item, stream=stream)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert ("retry-after" in response.headers) == (status == 503)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("loss", [RayActorError(), lost()])
async def test_a_request_whose_replica_is_lost_goes_to_another(loss: Any, stream: bool) -> None:
    handle = UnluckyHandle([loss] * 2, *answers(stream))
    async with client(handle, timeout_s=5) as http:
        response = await http.post("/v1/completions", json={**BODY, "stream": stream})
    assert response.status_code == 200
    assert handle.num_calls == 3
    if stream:
        assert response.text.count('"text":"a"') == 1
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        assert response.json()["choices"][0]["text"] == "ab"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_replica_that_is_on_its_way_out_is_one_try(stream: bool) -> None:
    """The router sends requests there until it has heard of the end: first refused, then cut off."""
    gone = ActorUnavailableError("gone", bytes.fromhex(ACTOR_ID))
    handle = UnluckyHandle([lost(ACTOR_ID)] * 2 * MAX_TRIES + [gone], *answers(stream))
    async with client(handle, timeout_s=5) as http:
        response = await http.post("/v1/completions", json={**BODY, "stream": stream})
    assert response.status_code == 200
    assert handle.num_calls == 2 * MAX_TRIES + 2


async def test_a_stream_that_has_begun_after_a_loss_is_not_begun_again() -> None:
    handle = UnluckyHandle([lost(ACTOR_ID)], FIRST, lost(ACTOR_ID))
    async with client(handle, timeout_s=5) as http:
        response = await http.post("/v1/completions", json={**BODY, "stream": True})
    assert handle.num_calls == 2
    assert response.text.count('"text":"a"') == 1
    assert '"code":"unavailable"' in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_ends_its_replicas_is_given_up(stream: bool) -> None:
    handle = UnluckyHandle([RayActorError()] * 100)
    async with client(handle, timeout_s=5) as http:
        response = await http.post("/v1/completions", json={**BODY, "stream": stream})
    assert (response.status_code, error_of(response)["code"], handle.num_calls) == (503, "unavailable", MAX_TRIES)


async def test_a_stream_that_has_begun_is_not_begun_again() -> None:
    handle = FakeHandle(FIRST, RayActorError())
    async with client(handle, timeout_s=5) as http:
        response = await http.post("/v1/completions", json={**BODY, "stream": True})
    assert handle.num_calls == 1
    assert response.text.count('"text":"a"') == 1
    assert '"code":"unavailable"' in response.text


@pytest.mark.parametrize("item", [1.0, RayActorError(), internal("logits are not finite")])
async def test_a_failure_in_mid_stream_is_an_error_event(item: Any) -> None:
    response = await answer(FIRST, item, stream=True)
    assert response.status_code == 200
    *chunks, error = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
    assert chunks[0]["choices"][0]["text"] == "a"
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert error["error"]["type"] == "server_error"
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_replica_that_falls_silent_is_lost(has_begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a node that is gone: no connection tells. Before the first text another replica is asked."""
    monkeypatch.setattr(gateway, "SILENCE_S", 0.1)
    handle = FakeHandle(FIRST if has_begun else ALIVE, 60.0, LAST)
    async with client(handle, timeout_s=30) as http:
        response = await http.post("/v1/completions", json={**BODY, "stream": True})
    assert '"code":"unavailable"' in response.text
    assert response.text.count('"text":"a"') == has_begun
    assert handle.num_calls == (1 if has_begun else MAX_TRIES)
    assert handle.response.is_cancelled


async def test_signs_of_life_are_waited_for_and_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "SILENCE_S", 1.0)
    response = await answer(ALIVE, 0.4, ALIVE, 0.4, FIRST, 0.4, ALIVE, 0.4, LAST, stream=True, timeout_s=30)
    assert response.text.endswith("data: [DONE]\n\n")
    assert [json.loads(line)["choices"][0]["text"] for line in _payloads(response)] == ["a", "b"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_whose_time_is_up_is_cancelled(stream: bool) -> None:
    handle = FakeHandle(1.0)
    async with client(handle) as http:
        await http.post("/v1/completions", json={**BODY, "stream": stream})
    assert handle.response.is_cancelled


@pytest.mark.parametrize("items", [(1.0,), (FIRST, 1.0)])
async def test_a_client_that_leaves_cancels_its_request(items: tuple[Any, ...]) -> None:
    handle = FakeHandle(*items)
    async with client(handle) as http:
        task = asyncio.create_task(http.post("/v1/completions", json={**BODY, "stream": len(items) > 1}))
        await asyncio.wait_for(handle.is_called.wait(), 60)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert handle.response.is_cancelled


async def test_a_finished_stream_is_not_cancelled() -> None:
    handle = FakeHandle(FIRST, LAST)
    async with client(handle) as http:
        response = await http.post("/v1/completions", json={**BODY, "stream": True})
    assert response.text.endswith("data: [DONE]\n\n")
    assert not handle.response.is_cancelled


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/completions", b'{"model": "m", ', 400),
        ("POST", "/v1/completions", b"[]", 400),
        ("POST", "/v1/completions", b"", 400),
        ("POST", "/v1/nothing", b"{}", 404),
        ("POST", "/v1/embeddings", b'{"model": "m", "input": "x"}', 400),
        ("GET", "/v1/completions", b"", 405),
        ("GET", "/v1/models/other", b"", 404),
        ("POST", "/v1/classify", b'{"model": "m", "input": "x"}', 400),
        ("POST", "/v1/completions", b'{"model": "other", "prompt": "x"}', 404),
    ],
)
async def test_every_refusal_has_openais_shape(method: str, path: str, content: bytes, status: int) -> None:
    async with client(FakeHandle()) as http:
        response = await http.request(method, path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert error_of(response)["type"] == "invalid_request_error"
    assert int(response.headers["openai-processing-ms"]) >= 0


async def test_a_body_of_another_type_is_refused_with_the_reason() -> None:
    async with client(FakeHandle()) as http:
        response = await http.post("/v1/completions", content=json.dumps(BODY), headers={"content-type": "text/plain"})
    assert response.status_code == 415
    assert "content-type" in error_of(response)["message"]


@pytest.mark.parametrize("prompt", [b'"\\ud800"', b'"\xed\xa0\x80"', b'"\xff"', b"NaN"])
async def test_what_is_no_json_and_no_text_is_refused(prompt: bytes) -> None:
    content = b'{"model": "m", "prompt": ' + prompt + b"}"
    async with client(FakeHandle(FIRST)) as http:
        response = await http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "JSON" in error_of(response)["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_id_ends_the_answers_id(stream: bool) -> None:
    response = await answer(FIRST, LAST, body={**BODY, "request_id": "order-7", "stream": stream})
    ids = {json.loads(line)["id"] for line in _payloads(response)}
    assert ids == {"cmpl-order-7"}


def _payloads(response: httpx.Response) -> list[str]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n")]
    return [line for line in lines if line not in ("", "[DONE]")]


async def test_every_failure_of_the_openapi_document_has_openais_shape() -> None:
    async with client(FakeHandle()) as http:
        document = (await http.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            refused = {status: body for status, body in operation["responses"].items() if status != "200"}
            assert {"400", "404", "415", "503"} <= set(refused), path
            assert "422" not in refused, path
            for body in refused.values():
                assert body["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorAnswer")
    assert "HTTPValidationError" not in document["components"]["schemas"]


async def test_metrics_count_requests_tokens_and_first_tokens() -> None:
    metrics = ServerMetrics()
    handle = FakeHandle(Frame((Piece(0, "ab", "stop"),), 3, 2, 0.1))
    async with client(handle, metrics) as http:
        await http.post("/v1/completions", json=BODY)
        await http.get("/v1/nothing")
        await http.get("/v1/models/other")
    status = ReplicaStatus("r1", 1, 2, kv_tokens_used=3, kv_tokens_capacity=4)
    page = metrics.page([("m", status)]).decode()
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert values["fastserve_requests_total", "", "/v1/completions", "200"] == 1
    assert values["fastserve_requests_total", "", "unknown", "404"] == 1
    assert values["fastserve_requests_total", "", "/v1/models/{name:path}", "404"] == 1
    assert values["fastserve_request_duration_seconds_count", "/v1/completions"] == 1
    assert values["fastserve_time_to_first_token_seconds_sum", "", "m"] >= 0.1
    assert values["fastserve_prompt_tokens_total", "", "m"] == 3
    assert values["fastserve_generation_tokens_total", "", "m"] == 2
    assert values["fastserve_num_requests_waiting", "m", "r1"] == 2
    assert values["fastserve_kv_tokens_capacity", "m", "r1"] == 4
