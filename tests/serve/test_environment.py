from __future__ import annotations

from pathlib import Path

import pytest

from fastserve_ray.errors import FastServeError
from fastserve_ray.run.ray_runtime import RayRuntime
from fastserve_ray.serve.environment import ENVIRONMENT, runtime_env_of
from fastserve_ray.spec.cluster import ClusterSpec

RUNTIME_ENV = {"pip": ["left-pad==1"], "env_vars": {"A": "b"}, "working_dir": "."}


@pytest.mark.parametrize(
    ("address", "expected"),
    [("auto", RUNTIME_ENV), ("http://head:8265", RUNTIME_ENV), ("local", {"env_vars": {"A": "b"}})],
)
def test_the_runtime_environment_goes_to_ray(address: str, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = ClusterSpec.model_validate({"address": address, "runtime_env": RUNTIME_ENV})
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert runtime_env_of(cluster) == expected
    assert runtime_env_of(ClusterSpec.model_validate({"address": address})) is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert runtime_env_of(cluster) is None, "a job has its own"


def test_an_address_that_takes_jobs_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that is in no Ray yet; other tests may have connected this one."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(FastServeError, match="takes jobs") as caught:
        RayRuntime(ClusterSpec(address="http://head:8265")).start()
    assert caught.value.key == "cluster.address"
    assert "fastserve submit app.yaml --address http://head:8265" in str(caught.value.hint)


def test_nodes_of_a_chart_and_of_the_docs_have_serves_environment() -> None:
    root = Path(__file__).parents[2]
    chart, docs = (root / "helm/fastserve/templates/_pod.tpl").read_text(), (root / "docs/serving.md").read_text()
    for name, value in ENVIRONMENT.items():
        assert f'- {{name: {name}, value: "{value}"}}' in chart
        assert f"\n{name}={value}\n" in docs
