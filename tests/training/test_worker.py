"""Parts of a Ray Train worker that need no Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.errors import ArtifactError, ModelError
from fastserve_ray.spec import ModelSpec
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.hooks import Hooks
from fastserve_ray.training.work import Publication, Work
from fastserve_ray.training.worker import finish, load, num_parameters
from fastserve_ray.training.world import World
from tests.training.tiny import make_tokenizer, model_spec, train_spec, write_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.artifacts.manifest import Manifest


def publish(registry: Registry, folder: Path, kind: Any, stage: str) -> Manifest:
    return registry.publish(
        folder, kind=kind, stage=stage, digest=stage[0] * 64, parents={}, spec={}, metrics={}, info={}
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Storage.open(str(tmp_path / "storage")))


@pytest.fixture
def work(registry: Registry, tmp_path: Path) -> Work:
    dataset = publish(registry, write_dataset(tmp_path / "dataset", "text-generation"), "dataset", "data")
    publication = Publication("f" * 64, {"data": dataset.id}, {"train.max_steps": 2})
    spec = train_spec(max_steps=2)
    return Work(model_spec("gpt2"), spec, dataset.id, registry.storage.uri, "run", publication=publication)


def changed(work: Work, **changes: Any) -> Work:
    return Work(**{**vars(work), **changes})


def test_what_cannot_be_loaded_is_returned(work: Work, registry: Registry) -> None:
    for broken, kind in (
        (changed(work, model=ModelSpec(base="/no/such/folder")), ModelError),
        (changed(work, model=ModelSpec(base="artifact:train-0")), ArtifactError),
        (changed(work, dataset="data-0"), ArtifactError),
    ):
        loop, error = load(broken, registry, World(), Hooks())
        assert loop is None
        assert isinstance(error, kind)


def test_a_trained_artifact_may_be_the_base(work: Work, registry: Registry) -> None:
    loop, error = load(work, registry, World(), Hooks())
    assert error is None
    assert loop is not None
    result = loop.run()
    manifest: Any = finish(work, registry, result, Hooks().progress)
    assert manifest.spec == {"train.max_steps": 2}
    assert manifest.info["num_steps"] == 2
    assert manifest.info["num_parameters"] == num_parameters(result) == result.model.num_parameters()
    again, error = load(changed(work, model=ModelSpec(base=f"artifact:{manifest.id}")), registry, World(), Hooks())
    assert error is None
    assert again is not None
    assert result.state_dict is not None
    assert again.model.state_dict()["lm_head.weight"].equal(result.state_dict["lm_head.weight"])
    assert again.tokenizer.encode("w0") == make_tokenizer().encode("w0")


def test_without_a_publication_there_are_only_metrics(work: Work, registry: Registry) -> None:
    trial = changed(work, publication=None)
    loop, _ = load(trial, registry, World(), Hooks())
    assert loop is not None
    found: Any = finish(trial, registry, loop.run(), Hooks().progress)
    assert "eval_loss" in found
    assert [manifest.kind for manifest in registry.list()] == ["dataset"]


def test_a_storage_that_cannot_be_written_is_returned(work: Work, registry: Registry, tmp_path: Path) -> None:
    loop, _ = load(work, registry, World(), Hooks())
    assert loop is not None
    (tmp_path / "file").write_text("not a folder")
    elsewhere = Registry(Storage.open(str(tmp_path / "file")))
    found: Any = finish(work, elsewhere, loop.run(), Hooks().progress)
    assert "cannot publish to" in str(found) or "cannot write" in str(found)
