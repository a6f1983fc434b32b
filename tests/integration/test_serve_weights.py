"""Replicas over the weight store, and what happens when its servers are lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import openai
import pytest
import ray

from fastserve_ray.engines.table import open_engine
from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.serve import AutoscalingSpec, FurtherModelSpec, ServeSpec, ShardsSpec
from fastserve_ray.spec.weights import WeightsSpec
from tests.integration.served import generate, save_embedder
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ray.actor import ActorHandle

    from fastserve_ray.engines.protocol import EmbeddingEngine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAMESPACE = "serve"
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder")
    save_embedder(folder)
    return folder


@pytest.fixture(scope="module")
def stored_app(ray_cluster: str, generator_folder: Path, embedder_folder: Path) -> Iterator[ServedApp]:
    """No replica may load the model itself. Beside the two replicas of ``stored`` the same model over two shards, and
    an embedder."""
    one = AutoscalingSpec()
    spec = ServeSpec(
        port=0,
        weights=WeightsSpec(store="on", shards=2),
        autoscaling_config=AutoscalingSpec(min_replicas=2, max_replicas=2),
        models={
            "cut": FurtherModelSpec(base=str(generator_folder), shards=ShardsSpec(tensor=2), autoscaling_config=one),
            "vectors": FurtherModelSpec(base=str(embedder_folder), task="text-embedding", autoscaling_config=one),
        },
    )
    app = deploy(generator_folder, "text-generation", "stored", spec)
    yield app
    app.shutdown()


@pytest.fixture(scope="module")
def expected(generator_folder: Path) -> str:
    """What the model adds to the prompt of `ask`."""
    return generate(generator_folder, "the cat", 12)[0]


def client_of(app: ServedApp) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{app.url}/v1", api_key="none", max_retries=0)


def ask(app: ServedApp, model: str = "stored") -> str:
    answer = client_of(app).completions.create(model=model, prompt="the cat", max_tokens=12, temperature=0)
    return str(answer.choices[0].text)


def actors(kind: str) -> set[str]:
    """Names of Serve's actors of the application."""
    named = ray.util.list_named_actors(all_namespaces=True)
    names = {each["name"] for each in named if each["namespace"] == NAMESPACE}
    return {name for name in names if name.startswith(f"{kind}::") and "model-stored" in name}


def test_replicas_read_from_shard_servers(stored_app: ServedApp, expected: str) -> None:
    assert len(actors("SERVE_DEPLOYMENT_ACTOR")) == 2
    assert len(actors("SERVE_REPLICA")) == 2
    assert {ask(stored_app) for _ in range(4)} == {expected}


def test_a_sharded_replica_reads_from_them(stored_app: ServedApp, expected: str) -> None:
    assert ask(stored_app, "cut") == expected


def test_an_embedder_reads_from_them(stored_app: ServedApp, embedder_folder: Path) -> None:
    texts = ["the cat sat", "the dog barked at the cat"]
    plain = cast("EmbeddingEngine", open_engine(embedder_folder, "text-embedding"))
    wanted = [np.frombuffer(vector.data, np.float32) for vector in plain.embed(plain.encode(texts))]
    answer = client_of(stored_app).embeddings.create(model="vectors", input=texts)
    for found, vector in zip(answer.data, wanted, strict=True):
        np.testing.assert_allclose(found.embedding, vector, atol=1e-6)


def test_serving_goes_on_when_servers_and_a_replica_are_lost(stored_app: ServedApp, expected: str) -> None:
    """The replica that comes in place of the lost one finds the store whole again, though a server is lost once more
    while it starts."""
    handles = [ray.get_actor(name, namespace=NAMESPACE) for name in actors("SERVE_DEPLOYMENT_ACTOR")]
    name = min(actors("SERVE_DEPLOYMENT_ACTOR"))
    old_replicas = actors("SERVE_REPLICA")
    victim, survivor = (ray.get_actor(name, namespace=NAMESPACE) for name in sorted(old_replicas))
    for handle in (*handles, victim):
        ray.kill(handle)
    deadline = time.monotonic() + DEADLINE_S
    ray.kill(wait_for(lambda: successor_of(name, handles), DEADLINE_S, "the server is started again"))
    while len(actors("SERVE_REPLICA") - old_replicas) < 1 or len(actors("SERVE_DEPLOYMENT_ACTOR")) < 2:
        assert time.monotonic() < deadline, actors("SERVE_REPLICA")
        time.sleep(0.2)
    (new,) = actors("SERVE_REPLICA") - old_replicas
    ray.get(ray.get_actor(new, namespace=NAMESPACE).__ray_ready__.remote(), timeout=DEADLINE_S)
    ray.kill(survivor)
    while True:
        try:
            assert ask(stored_app) == expected
            break
        except openai.APIStatusError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def successor_of(name: str, handles: Sequence[ActorHandle[Any]]) -> ActorHandle[Any] | None:
    """The actor that has this name and is none of ``handles``, once Ray knows it: it does not run yet."""
    try:
        handle = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None
    return None if handle in handles else handle


def test_a_model_whose_layers_are_streamed(ray_cluster: str, generator_folder: Path, expected: str) -> None:
    """Each step of its engine fetches every layer. A second request finds the stream where the first one left it."""
    spec = ServeSpec(port=0, route_prefix="/streamed", weights=WeightsSpec(store="on", stream=True))
    app = deploy(generator_folder, "text-generation", "streamed", spec)
    try:
        assert [ask(app, "streamed") for _ in range(2)] == [expected, expected]
    finally:
        app.shutdown()
