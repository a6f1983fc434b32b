"""What ``serve`` and ``predict`` make of their target."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.cli.target import resolve_target
from fastserve_ray.errors import ArtifactError, SpecError, UsageError
from fastserve_ray.plan.stages import plan_run
from fastserve_ray.spec.load import load_spec
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from pathlib import Path

TRAINED = """
name: app
storage: {storage}
model: {{config: {{model_type: llama, hidden_size: 64}}}}
data: {{train: {{path: {folder}/train.txt}}, validation: {{fraction: 0.1}}}}
train: {{max_steps: 1}}
"""


def model_folder(folder: Path, architecture: str = "LlamaForCausalLM") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    return folder


@pytest.mark.parametrize(
    ("architecture", "task"),
    [("LlamaForCausalLM", "text-generation"), ("BertForSequenceClassification", "text-classification")],
)
def test_a_folder_tells_its_task(tmp_path: Path, architecture: str, task: str) -> None:
    folder = model_folder(tmp_path / "My Model", architecture)
    found = resolve_target(str(folder), sets=["serve.engine.max_num_seqs=3"])
    assert (found.model, found.task, found.model_name) == (str(folder), task, "My Model")
    assert found.serve.engine.max_num_seqs == 3


def test_flags_go_before_what_the_folder_says(tmp_path: Path) -> None:
    found = resolve_target(str(model_folder(tmp_path / "m")), task="text-classification", name="judge")
    assert (found.task, found.model_name) == ("text-classification", "judge")


def test_a_hub_id_is_taken_as_it_is() -> None:
    found = resolve_target("org/Some-Model")
    assert (found.model, found.model_name, found.spec.name) == ("org/Some-Model", "org/Some-Model", "some-model")


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.json"):
        resolve_target(str(tmp_path))


@pytest.mark.parametrize("target", ["/no/such/folder", "./nothing", "a/b/c"])
def test_a_path_that_is_not_there_is_no_hub_id(target: str) -> None:
    with pytest.raises(UsageError, match="no such model folder"):
        resolve_target(target)


def test_a_wrong_override_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="max_num_seq"):
        resolve_target(str(model_folder(tmp_path / "m")), sets=["serve.engine.max_num_seq=3"])


def publish(storage: Path, folder: Path, stage: str, digest: str, kind: str = "model") -> str:
    manifest = Registry(Storage.open(str(storage))).publish(
        folder,
        kind=kind,  # type: ignore[arg-type]
        stage=stage,
        digest=digest,
        parents={},
        spec={},
        metrics={},
        info={"task": "text-classification"},
    )
    return manifest.id


def test_an_artifact_tells_its_task(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    identity = publish(storage, model_folder(tmp_path / "m"), "train", "ab" * 32)
    for reference in (identity, f"artifact:{identity}"):
        found = resolve_target(reference, storage=str(storage))
        assert (found.model, found.task) == (f"artifact:{identity}", "text-classification")
        assert found.spec.storage == str(storage)


def test_an_artifact_of_another_kind_is_refused(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    identity = publish(storage, model_folder(tmp_path / "m"), "data", "cd" * 32, kind="dataset")
    with pytest.raises(ArtifactError, match="no model"):
        resolve_target(identity, storage=str(storage))


def test_a_file_without_training_serves_its_base(tmp_path: Path) -> None:
    base = model_folder(tmp_path / "m")
    file = tmp_path / "app.yaml"
    file.write_text(f"name: app\nmodel: {{base: {base}}}\nserve: {{port: 8123}}\n")
    found = resolve_target(str(file))
    assert (found.model, found.model_name, found.serve.port) == (str(base), "app", 8123)


def test_a_file_with_training_serves_what_was_verified(tmp_path: Path) -> None:
    storage, file = tmp_path / "runs", tmp_path / "app.yaml"
    (tmp_path / "train.txt").write_text("a text\n")
    file.write_text(TRAINED.format(storage=storage, folder=tmp_path))
    with pytest.raises(ArtifactError, match="fastserve run"):
        resolve_target(str(file))
    plan = plan_run(load_spec(file))
    folder = model_folder(tmp_path / "m")
    model = publish(storage, folder, "train", plan.stage("train").digest)
    with pytest.raises(ArtifactError, match="verify"):
        resolve_target(str(file))
    publish(storage, folder, "verify", plan.stage("verify").digest, kind="report")
    assert resolve_target(str(file)).model == f"artifact:{model}"
    assert resolve_target(str(file), name="other", sets=["serve.port=0"]).model == f"artifact:{model}"
    with pytest.raises(ArtifactError):
        resolve_target(str(file), sets=["train.max_steps=2"])
