"""What Serve calls to build an application; that one answers is tested in tests/integration/test_rendered.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ray.serve._private.build_app import build_app

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.errors import ArtifactError, ServeError, SpecError
from fastserve_ray.plan.stages import plan_run
from fastserve_ray.serve.app import ServeTarget, deployment_name
from fastserve_ray.serve.auth.access import Access
from fastserve_ray.serve.builder import build
from fastserve_ray.serve.result import model_at, model_of
from fastserve_ray.serve.source import ModelSource
from fastserve_ray.serve.targets import all_targets
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.spec.serve import ServeSpec
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from pathlib import Path

TRAINED: dict[str, Any] = {
    "name": "app",
    "model": {"config": {"model_type": "llama", "hidden_size": 64}},
    "train": {"max_steps": 1},
    "compress": [{"kind": "quantize"}],
    "serve": {},
}


def trained(folder: Path) -> dict[str, Any]:
    (folder / "train.txt").write_text("one\n\ntwo\n")
    data = {"train": {"path": str(folder / "train.txt")}, "validation": {"fraction": 0.1}}
    return {**TRAINED, "storage": str(folder / "runs"), "data": data}


def publish(data: dict[str, Any], folder: Path, *stages: str) -> None:
    """Something under the digests of these stages."""
    plan = plan_run(spec_from_dict(data))
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    registry = Registry(Storage.open(data["storage"]))
    for stage in map(plan.stage, stages):
        kind: Any = "report" if stage.name == "verify" else "model"
        registry.publish(
            folder, kind=kind, stage=stage.name, digest=stage.digest, parents={}, spec={}, metrics={}, info={}
        )


@pytest.mark.parametrize("arguments", [{}, {"app": "app.yaml"}, {"app": {}, "modell": "x"}])
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(ServeError, match="no arguments of the application"):
        build(arguments)


def test_the_file_is_checked_as_any_other() -> None:
    with pytest.raises(SpecError, match=r"serve\.prot"):
        build({"app": {"name": "a", "model": {"base": "b"}, "serve": {"prot": 1}}})


def test_a_task_without_an_endpoint_is_refused() -> None:
    target = ServeTarget(ModelSource("org/model"), "masked-lm", "a", ServeSpec())
    with pytest.raises(ServeError, match="no endpoint"):
        all_targets(target, Access())


def test_only_what_is_verified_is_served(tmp_path: Path) -> None:
    data = trained(tmp_path)
    with pytest.raises(ArtifactError, match="no verified model yet") as caught:
        build({"app": data})
    assert "fastserve run app.yaml" in str(caught.value)
    publish(data, tmp_path / "made", "train", "compress")
    with pytest.raises(ArtifactError, match="not published: verify-"):
        build({"app": data})
    publish(data, tmp_path / "made", "verify")
    spec = spec_from_dict(data)
    assert model_of(spec) == f"artifact:{plan_run(spec).stage('compress').artifact_id}"
    assert model_at("artifact:" + plan_run(spec).stage("train").artifact_id, data["storage"]).startswith(
        "artifact:train-"
    )


def test_a_reference_that_nothing_answers_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        build({"app": trained(tmp_path), "model": "artifact:train-0123456789abcdef"})


def test_a_cluster_that_grows_starts_all_new_replicas_beside_the_old(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    types = {"head": {"resources": {"CPU": 2}}, "worker": {"resources": {"CPU": 4}, "max_workers": 2}}
    app: dict[str, Any] = {
        "name": "a",
        "storage": str(tmp_path / "runs"),
        "cluster": {"address": "auto", "head_node_type": "head", "available_node_types": types},
        "model": {"base": str(tmp_path)},
        "serve": {"models": {"b": {"base": str(tmp_path)}}},
    }
    built = build_app(build({"app": app}), name="a")
    surges = {each.name: each._deployment_config.max_surge_percent for each in built.deployments}
    assert surges == {deployment_name("a"): 100, deployment_name("b"): 100, "ingress": 100}
