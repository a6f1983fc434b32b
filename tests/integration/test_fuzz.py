"""The server against requests made up from its own OpenAPI document: right ones, and wrong ones of every kind."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.serve import FurtherModelSpec, ServeSpec
from tests.integration.served import save_classifier, save_embedder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

MAX_EXAMPLES = 20
"""For each endpoint, right and wrong each."""
MAX_TOKENS = 4
TIMEOUT_S = 60.0
"""A request that takes longer hangs."""
MESSAGES = [{"role": "user", "content": "hello"}]
MODELS = {"/v1/classify": "judge", "/v1/rerank": "judge", "/v1/embeddings": "vectors"}
"""By endpoint; tiny otherwise."""
CHAT = "POST /v1/chat/completions"
ANSWERED = (
    "POST /v1/completions",
    CHAT,
    "POST /v1/classify",
    "POST /v1/embeddings",
    "POST /tokenize",
    "POST /detokenize",
)


@pytest.fixture(scope="module")
def app(ray_cluster: str, generator_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    """A model for every endpoint."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("judge", "vectors")}
    save_classifier(folders["judge"])
    save_embedder(folders["vectors"])
    judge = FurtherModelSpec(base=str(folders["judge"]), task="text-classification")
    vectors = FurtherModelSpec(base=str(folders["vectors"]), task="text-embedding")
    spec = ServeSpec(port=0, models={"judge": judge, "vectors": vectors})
    app = deploy(generator_folder, "text-generation", "tiny", spec)
    yield app
    app.shutdown()


def test_answers_are_those_of_the_openapi_document(app: ServedApp) -> None:
    """No 5xx, no hang, statuses, headers and bodies as the document has them, and wrong requests refused."""
    document: Any = schemathesis.openapi.from_url(f"{app.url}/openapi.json")
    statuses: Counter[tuple[str, int]] = Counter()
    for found in document.get_all_operations():
        operation = found.ok()
        _fuzz(operation, GenerationMode.POSITIVE, statuses)
        if operation.body:
            _fuzz(operation, GenerationMode.NEGATIVE, statuses)
    for label in ANSWERED:
        assert statuses[label, 200], f"no request to {label} was right"
        assert statuses[label, 400], f"no request to {label} was wrong"
    assert httpx.get(f"{app.url}/ready").status_code == 200


def _fuzz(operation: Any, mode: GenerationMode, statuses: Counter[tuple[str, int]]) -> None:
    # A JSON schema cannot say which fields go together, nor what the model has room for.
    not_checked = [CHECKS.get_one("positive_data_acceptance")]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=MAX_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        if isinstance(case.body, dict):
            _ask_the_model_that_is_there(operation.label, case.body)
            if mode == GenerationMode.POSITIVE:
                _make_fields_go_together(operation.label, case.body)
        response = case.call(timeout=TIMEOUT_S)
        statuses[operation.label, response.status_code] += 1
        case.validate_response(response, excluded_checks=not_checked)

    send()


def _ask_the_model_that_is_there(label: str, body: dict[str, Any]) -> None:
    """For a few tokens: most requests would name no model otherwise, or fill the context."""
    if body.get("model") and isinstance(body["model"], str):
        body["model"] = MODELS.get(label.removeprefix("POST "), "tiny")
    for name in ("max_tokens", "max_completion_tokens"):
        if isinstance(body.get(name), int) and body[name] > MAX_TOKENS:
            body[name] = MAX_TOKENS
    if label == CHAT and body.get("max_completion_tokens") is None:
        body.setdefault("max_tokens", MAX_TOKENS)


def _make_fields_go_together(label: str, body: dict[str, Any]) -> None:
    """Where made-up ones rarely do."""
    if label == CHAT:
        body["messages"] = MESSAGES
    if label == "POST /tokenize":
        body.pop("messages", None)
        body["prompt"] = "the cat"
