"""Training on a GPU: number formats, and the memory estimate against torch's own count. Not run on a GPU yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.plan_memory import CASES, Case, estimate, measure
from fastserve_ray.training.job import TrainJob
from fastserve_ray.training.loop import TrainingLoop
from fastserve_ray.training.world import World
from tests.training.tiny import model_spec, train_spec, write_dataset

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_as_fp32_does(precision: str, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", "text-generation")
    found = {}
    for chosen in ("fp32", precision):
        train = train_spec(precision=chosen, max_steps=40, resources_per_worker={"GPU": 1})
        found[chosen] = (
            TrainingLoop(TrainJob(model_spec("llama"), train, dataset), World(device="cuda:0")).run().metrics
        )
    assert found[precision]["train_loss"] == pytest.approx(found["fp32"]["train_loss"], rel=0.1)
    assert ("loss_scale" in found[precision]) is (precision == "fp16")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_estimate_is_within_15_percent_of_the_peak(case: Case, tmp_path: Path) -> None:
    assert estimate(case, on_gpu=True) == pytest.approx(measure(case, tmp_path)["peak"], rel=0.15)
