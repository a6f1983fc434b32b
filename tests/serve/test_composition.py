"""Applications of several models: what is refused before anything starts, and a start that fails at first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import APIRouter

from fastserve_ray.errors import ServeError, UnknownNameError
from fastserve_ray.serve import composition
from fastserve_ray.serve.api import build_api
from fastserve_ray.serve.composition import load_application
from fastserve_ray.serve.gateway import Gateway
from fastserve_ray.spec.serve import ApplicationSpec

if TYPE_CHECKING:
    from fastserve_ray.serve.composition import Models

HERE = "tests.serve.test_composition"


class Slow:
    """Fails to start as often as it is told."""

    def __init__(self, models: Models, *, num_failures: int = 0, word: str = "hello") -> None:
        self._num_failures = num_failures
        self._word = word

    async def start(self) -> None:
        self._num_failures -= 1
        if self._num_failures >= 0:
            raise RuntimeError("the index is not there")

    def routes(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/word", lambda: {"word": self._word})
        return router


def spec(**settings: Any) -> ApplicationSpec:
    return ApplicationSpec(kind=f"{HERE}:Slow", settings=settings)


@pytest.mark.parametrize("kind", ["no.such:Thing", f"{HERE}:Nothing"])
def test_a_class_that_is_not_there(kind: str) -> None:
    with pytest.raises(UnknownNameError, match=r"serve\.application\.kind"):
        load_application(ApplicationSpec(kind=kind))


def test_settings_that_it_does_not_take() -> None:
    with pytest.raises(ServeError, match="wrod") as raised:
        load_application(spec(wrod="x"))
    assert "num_failures, word" in str(raised.value)


def test_settings_that_are_missing() -> None:
    with pytest.raises(ServeError, match="instructions"):
        load_application(ApplicationSpec(kind="deployments.customer_service.app:CustomerService"))


async def test_ready_waits_for_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "RETRY_S", 0.01)
    app = build_api(Gateway({}, {}), application=spec(num_failures=3, word="moin"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        early = await client.get("/ready")
        assert early.status_code == 503
        async with asyncio.timeout(10):
            while (answer := await client.get("/ready")).status_code != 200:
                assert "not started" in answer.json()["error"]["message"]
                await asyncio.sleep(0.01)
        assert (await client.get("/word")).json() == {"word": "moin"}
