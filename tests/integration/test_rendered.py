"""A rendered Serve configuration, handed to Serve as its REST API does: Serve builds the application by itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import yaml
from fastapi import APIRouter
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from fastserve_ray.cluster.table import render
from fastserve_ray.serve.ports import choose_port
from fastserve_ray.serve.start import start_serve, stop_serve
from fastserve_ray.spec.keys import hash_of
from fastserve_ray.spec.load import spec_from_dict
from tests.integration.served import save_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastserve_ray.serve.composition import Models

pytestmark = pytest.mark.slow

HOST = "127.0.0.1"
START_S = 240.0


class Opinion:
    """What one model writes, judged by another."""

    def __init__(self, models: Models, prompt: str) -> None:
        self._models = models
        self._prompt = prompt

    async def start(self) -> None:
        """Nothing is to be prepared."""

    def routes(self) -> APIRouter:
        router = APIRouter()

        @router.get("/opinion")
        async def opinion() -> dict[str, str]:
            chat = [{"role": "user", "content": self._prompt}]
            answer = await self._models.chat(model="tiny", messages=chat, max_tokens=4, temperature=0)
            text = str(answer.choices[0].message.content)
            judged = await self._models.classify(model="judge", input=text)
            return {"text": text, "label": judged.data[0].label}

        return router


@pytest.fixture(scope="module")
def rendered(ray_cluster: str, generator_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("rendered")
    judge = tmp_path_factory.mktemp("judge")
    save_classifier(judge)
    (folder / "keys.yaml").write_text(f"keys: [{{name: alice, sha256: {hash_of('a key')}}}]")
    data = {
        "name": "rendered",
        "storage": str(folder / "runs"),
        "model": {"base": str(generator_folder)},
        "serve": {
            "model_name": "tiny",
            "host": HOST,
            "port": choose_port(HOST, 0),
            "route_prefix": "/films",
            "models": {"judge": {"base": str(judge), "task": "text-classification"}},
            "application": {"kind": f"{__name__}:Opinion", "settings": {"prompt": "the cat"}},
            "auth": {"keys_file": str(folder / "keys.yaml")},
        },
    }
    config: dict[str, Any] = yaml.safe_load(render("serve-config", spec_from_dict(data)))
    return config


@pytest.fixture(scope="module")
def url(rendered: dict[str, Any]) -> Iterator[str]:
    parsed = ServeDeploySchema.model_validate(rendered)
    try:
        start_serve(rendered["http_options"])
        _get_global_client().deploy_apps(parsed)
        _wait_until_running(rendered["applications"][0]["name"])
        http = rendered["http_options"]
        yield f"http://{http['host']}:{http['port']}/films"
    finally:
        stop_serve()


def _wait_until_running(name: str) -> None:
    deadline = time.monotonic() + START_S
    while (application := serve.status().applications[name]).status.value != "RUNNING":
        assert application.status.value != "DEPLOY_FAILED", application.message
        assert time.monotonic() < deadline, application
        time.sleep(0.1)


def test_it_answers_as_any_other_application(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="a key", max_retries=0)
    assert [model.id for model in client.models.list().data] == ["tiny", "judge"]
    answer = client.completions.create(model="tiny", prompt="the cat", max_tokens=4, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    keys = {"Authorization": "Bearer a key"}
    assert httpx.get(f"{url}/opinion", headers=keys, timeout=60).json()["label"] in ("negative", "positive", "unsure")
    assert httpx.get(f"{url}/v1/models", timeout=60).status_code == 401


def test_the_deployments_are_those_of_deploy(url: str, rendered: dict[str, Any]) -> None:
    from fastserve_ray.serve.app import deployment_name

    (application,) = rendered["applications"]
    found = serve.status().applications[application["name"]].deployments
    assert set(found) == {"ingress", "quota", deployment_name("tiny"), deployment_name("judge")}
