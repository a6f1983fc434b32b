"""Replicas over the weight store, and what happens when its servers are lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import openai
import pytest
import ray

from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.serve import AutoscalingSpec, ServeSpec
from fastserve_ray.spec.weights import WeightsSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAMESPACE = "serve"
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def stored_app(ray_cluster: str, generator_folder: Path) -> Iterator[ServedApp]:
    """No replica may load the model itself."""
    spec = ServeSpec(
        port=0,
        weights=WeightsSpec(store="on", shards=2),
        autoscaling_config=AutoscalingSpec(min_replicas=2, max_replicas=2),
    )
    app = deploy(generator_folder, "text-generation", "stored", spec)
    yield app
    app.shutdown()


def ask(app: ServedApp) -> str:
    client = openai.OpenAI(base_url=f"{app.url}/v1", api_key="none", max_retries=0)
    answer = client.completions.create(model="stored", prompt="the cat", max_tokens=12, temperature=0)
    return str(answer.choices[0].text)


def actors(kind: str) -> set[str]:
    """Names of Serve's actors of the application."""
    named = ray.util.list_named_actors(all_namespaces=True)
    names = {each["name"] for each in named if each["namespace"] == NAMESPACE}
    return {name for name in names if name.startswith(f"{kind}::") and "model-stored" in name}


def test_replicas_read_from_shard_servers(stored_app: ServedApp) -> None:
    assert len(actors("SERVE_DEPLOYMENT_ACTOR")) == 2
    assert len(actors("SERVE_REPLICA")) == 2
    assert len({ask(stored_app) for _ in range(4)}) == 1


def test_serving_goes_on_when_servers_and_a_replica_are_lost(stored_app: ServedApp) -> None:
    """The replica that comes in place of the lost one finds the store whole again."""
    expected = ask(stored_app)
    handles = [ray.get_actor(name, namespace=NAMESPACE) for name in actors("SERVE_DEPLOYMENT_ACTOR")]
    old_replicas = actors("SERVE_REPLICA")
    victim, survivor = (ray.get_actor(name, namespace=NAMESPACE) for name in sorted(old_replicas))
    for handle in (*handles, victim):
        ray.kill(handle)
    deadline = time.monotonic() + DEADLINE_S
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
