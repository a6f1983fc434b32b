"""Frozen parameters stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.errors import ModelError
from fastserve_ray.training.job import TrainJob, build_model
from fastserve_ray.training.loop import TrainingLoop
from tests.training.tiny import model_spec, train_spec, write_dataset

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", "text-generation")


def job_of(dataset: Path, **changes: Any) -> TrainJob:
    return TrainJob(model_spec("llama"), train_spec(max_steps=3, warmup_ratio=0.0, **changes), dataset)


def test_what_matches_does_not_move_and_the_rest_does(dataset: Path) -> None:
    job = job_of(dataset, freeze=["model.embed_tokens.*", "model.layers.0.*"])
    before, _ = build_model(job, PreparedDataset.open(dataset))
    after = dict(TrainingLoop(job).run().model.named_parameters())
    moved = {name for name, weight in before.named_parameters() if not torch.equal(weight, after[name])}
    still = {name for name in after if name.startswith(("model.embed_tokens.", "model.layers.0."))}
    assert moved == after.keys() - still


def test_a_pattern_without_a_match_names_what_is_near(dataset: Path) -> None:
    with pytest.raises(ModelError, match="no parameter") as caught:
        build_model(job_of(dataset, freeze=["model.embed_token.*"]), PreparedDataset.open(dataset))
    assert caught.value.key == "train.freeze"
    assert "model.embed_tokens" in str(caught.value.hint)


def test_something_must_be_left_to_train(dataset: Path) -> None:
    with pytest.raises(ModelError, match="nothing is left"):
        build_model(job_of(dataset, freeze=["*"]), PreparedDataset.open(dataset))
