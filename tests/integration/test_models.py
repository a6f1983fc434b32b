"""Several models in one application, and a new version of it under load."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray import serve

from fastserve_ray.errors import ServeError
from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.serve import FurtherModelSpec, ServeSpec
from tests.integration.served import save_classifier, save_embedder, save_generator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

PROMPT = "the cat sat on the"
GREEDY: Any = {"temperature": 0, "max_tokens": 24}
NUM_CLIENTS = 4
LONG = 1900
"""Tokens of a stream that goes on while the version changes."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("old", "new", "judge", "vectors", "broken")}
    save_generator(made["old"])
    save_generator(made["new"], seed=1)
    save_classifier(made["judge"])
    save_embedder(made["vectors"])
    (made["broken"] / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    return made


@pytest.fixture(scope="module")
def spec(folders: dict[str, Path]) -> ServeSpec:
    judge = FurtherModelSpec(base=str(folders["judge"]), task="text-classification")
    vectors = FurtherModelSpec(base=str(folders["vectors"]), task="text-embedding", request_timeout_s=60.0)
    return ServeSpec(port=0, models={"judge": judge, "vectors": vectors})


@pytest.fixture(scope="module")
def app(ray_cluster: str, folders: dict[str, Path], spec: ServeSpec) -> Iterator[ServedApp]:
    app = deploy(folders["old"], "text-generation", "tiny", spec)
    yield app
    app.shutdown()


class Load:
    """Clients that ask without a pause; every second request is a stream."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self.answers: list[str] = []
        self.errors: list[Exception] = []

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(NUM_CLIENTS)
        self._workers = [self._pool.submit(self._ask) for _ in range(NUM_CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._pool.shutdown()
        for worker in self._workers:
            worker.result()

    def _ask(self) -> None:
        number = 0
        while not self._is_over.is_set():
            try:
                text = _complete(self._client, stream=bool(number % 2))
            except openai.APIError as error:
                with self._lock:
                    self.errors.append(error)
            else:
                with self._lock:
                    self.answers.append(text)
            number += 1


def _complete(client: openai.OpenAI, *, stream: bool = False) -> str:
    answer: Any = client.completions.create(model="tiny", prompt=PROMPT, stream=stream, **GREEDY)
    if stream:
        return "".join(chunk.choices[0].text for chunk in answer)
    return str(answer.choices[0].text)


def test_a_requests_model_says_who_answers(app: ServedApp, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list().data] == ["tiny", "judge", "vectors"]
    assert client.models.retrieve("judge").id == "judge"
    assert httpx.get(f"{app.url}/ready").status_code == 200
    judged = httpx.post(f"{app.url}/v1/classify", json={"model": "judge", "input": "the cat"}).json()
    assert judged["data"][0]["label"] in ("negative", "positive", "unsure")
    assert len(client.embeddings.create(model="vectors", input="the cat").data[0].embedding) == 64
    assert _complete(client)
    with pytest.raises(openai.BadRequestError, match="/v1/classify"):
        client.completions.create(model="judge", prompt="x")
    with pytest.raises(openai.NotFoundError, match="served here: tiny, judge, vectors"):
        client.completions.create(model="other", prompt="x")


def replicas(app: ServedApp) -> dict[str, str]:
    """By model."""
    families = text_string_to_metric_families(httpx.get(f"{app.url}/metrics").text)
    labels = [sample.labels for family in families for sample in family.samples if "replica" in sample.labels]
    return {label["model"]: label["replica"] for label in labels}


def test_no_request_fails_while_a_new_version_takes_over(
    app: ServedApp, client: openai.OpenAI, folders: dict[str, Path], spec: ServeSpec
) -> None:
    before, old = _complete(client), replicas(app)
    long: Any = client.completions.create(model="tiny", prompt=PROMPT, temperature=0, max_tokens=LONG, stream=True)
    begun = next(long).choices[0].text
    with Load(client) as load:
        again = deploy(folders["new"], "text-generation", "tiny", spec)
        after = _complete(client)
    assert again.url == app.url
    assert after != before
    assert load.errors == []
    assert {before} <= set(load.answers) <= {before, after}  # each whole, of one version
    *_, last = chunks = list(long)
    assert (begun + "".join(chunk.choices[0].text for chunk in chunks)).startswith(before)
    assert last.choices[0].finish_reason == "length"
    assert _complete(client, stream=True) == after
    new = replicas(app)
    assert {name for name in old if new[name] != old[name]} == {"tiny"}


def test_a_version_that_does_not_start_changes_nothing(
    app: ServedApp, client: openai.OpenAI, folders: dict[str, Path], spec: ServeSpec
) -> None:
    before, old = _complete(client), replicas(app)
    with Load(client) as load, pytest.raises(ServeError, match="cannot load"):
        deploy(folders["broken"], "text-generation", "tiny", spec)
    assert load.errors == []
    assert set(load.answers) == {before}
    deadline = time.monotonic() + 60
    while serve.status().applications["tiny"].status != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert replicas(app) == old
    assert _complete(client) == before
