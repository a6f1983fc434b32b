"""The desk hands over whom its settings say, and tells the assistant what the intent asks for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from fastserve_ray.engines.table import open_engine
from fastserve_ray.serve.client import post
from fastserve_ray.spec.serve import EngineSpec
from tests.deployments.conftest import ROOT
from tests.integration.served import save_classifier, save_generator

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.serve.deploy import ServedApp
    from tests.deployments.conftest import Start

pytestmark = pytest.mark.slow

MESSAGES = [f"the cat {verb} the {thing}" for verb in ("sat on", "barked at") for thing in ("mat", "dog", "köln 東京")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("assistant", "intent", "sentiment")}
    save_generator(made["assistant"])
    save_classifier(made["intent"])
    save_classifier(made["sentiment"], seed=1)
    return made


@pytest.fixture(scope="module")
def judged(folders: dict[str, Path]) -> dict[str, list[Any]]:
    """What each classifier says of every message, asked without a server."""
    found: dict[str, list[Any]] = {}
    for name in ("intent", "sentiment"):
        engine: Any = open_engine(folders[name], "text-classification", EngineSpec())
        found[name] = engine.predict(MESSAGES)
    return found


@pytest.fixture(scope="module")
def app(start: Start, folders: dict[str, Path], judged: dict[str, list[Any]]) -> ServedApp:
    intents = [prediction.label for prediction in judged["intent"]]
    settings = {
        "handover_sentiment": judged["sentiment"][0].label,
        "handover_probability": judged["sentiment"][0].scores[judged["sentiment"][0].label_id] - 1e-3,
        "instructions": {"default": "the cat", intents[-1]: "the dog"},
        "max_tokens": 12,
    }
    env = {name.upper(): str(folder) for name, folder in folders.items()}
    return start("customer_service", env, [f"serve.application.settings={json.dumps(settings)}"])


def test_every_message_gets_what_its_labels_ask_for(app: ServedApp, judged: dict[str, list[Any]]) -> None:
    client = openai.OpenAI(base_url=f"{app.url}/v1", api_key="none", max_retries=0)
    handover, special = judged["sentiment"][0], judged["intent"][-1].label
    ways = set()
    for message, intent, sentiment in zip(MESSAGES, judged["intent"], judged["sentiment"], strict=True):
        reply = post(f"{app.url}/customer_service", {"message": message})
        assert reply["intent"]["label"] == intent.label
        assert reply["sentiment"]["label"] == sentiment.label
        assert reply["sentiment"]["probability"] == pytest.approx(max(sentiment.scores), abs=1e-5)
        is_handed_over = sentiment.label == handover.label and max(sentiment.scores) > max(handover.scores) - 1e-3
        assert reply["handed_over"] == is_handed_over
        ways.add((is_handed_over, intent.label == special))
        if is_handed_over:
            assert "colleague" in reply["answer"]
            continue
        told = "the dog" if intent.label == special else "the cat"
        asked: Any = [{"role": "system", "content": told}, {"role": "user", "content": message}]
        answer = client.chat.completions.create(model="assistant", messages=asked, max_tokens=12, temperature=0)
        assert reply["answer"] == answer.choices[0].message.content
    assert {is_handed_over for is_handed_over, _ in ways} == {True, False}


def test_the_example_request_is_answered(app: ServedApp) -> None:
    body = json.loads((ROOT / "customer_service" / "request.json").read_text())
    assert post(f"{app.url}/customer_service", body)["answer"]


@pytest.mark.parametrize("body", [{}, {"message": ""}, {"message": 7}, {"massage": "x"}])
def test_a_wrong_request_is_an_error_in_the_shape_of_all_others(app: ServedApp, body: Any) -> None:
    answer = httpx.post(f"{app.url}/customer_service", json=body)
    assert answer.status_code == 400
    assert "message" in answer.json()["error"]["message"]


def test_the_standard_endpoints_are_there_too(app: ServedApp) -> None:
    listed = httpx.get(f"{app.url}/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["assistant", "intent", "sentiment"]
    assert "/customer_service" in httpx.get(f"{app.url}/openapi.json").json()["paths"]
