"""A whole run whose training is a pipeline of two Ray Train actors: what is verified is what one process trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.run.driver import run
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.hooks import Hooks
from fastserve_ray.training.in_process import on_one_worker, train_in_process
from fastserve_ray.training.job import TrainJob
from tests.training.test_board import read

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.run.walk import RunResult
    from fastserve_ray.spec import RunSpec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

NUM_STEPS = 12
CONFIG: dict[str, Any] = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}


def spec_of(root: Path) -> RunSpec:
    """Tied embeddings, on the first and the last stage; four micro batches a step."""
    lines = [f"the number {number} comes before the number {number + 1}" for number in range(200)]
    (root / "lines.txt").write_text("\n".join(lines))
    return spec_from_dict(
        {
            "name": "pipeline",
            "storage": str(root / "runs"),
            "model": {"config": CONFIG, "tokenizer": {"kind": "bpe", "vocab_size": 300}},
            "data": {"train": {"path": str(root / "lines.txt")}, "max_length": 32},
            "train": {
                "max_steps": NUM_STEPS,
                "batch_size": 8,
                "gradient_accumulation_steps": 4,
                "learning_rate": 1e-2,
                "logging_steps": 1,
                "parallel": {"pipeline": 2},
            },
        }
    )


def one_process(spec: RunSpec, result: RunResult) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of the same training without Ray, on the run's own dataset."""
    assert spec.train is not None
    dataset = Registry(Storage.open(spec.storage)).fetch(result.artifacts["data"])
    losses: list[float] = []
    job = TrainJob(spec.model, on_one_worker(spec.train), dataset)
    trained = train_in_process(job, Hooks(on_step=lambda step, loss: losses.append(loss)), device="cpu", num_threads=1)
    assert trained.state_dict is not None
    return losses, trained.state_dict


def test_a_run_with_a_pipeline_publishes_what_one_process_trains(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    result = run(spec, until="verify")
    assert list(result.artifacts) == ["data", "train", "verify"]
    losses, weights = one_process(spec, result)
    scalars = read(tmp_path / "runs" / "tensorboard" / result.artifacts["train"])
    assert losses[-1] < 0.9 * losses[0]
    assert scalars["train/loss"] == pytest.approx(dict(enumerate(losses, start=1)), abs=1e-5)

    registry = Registry(Storage.open(spec.storage))
    trained = registry.get(result.artifacts["train"])
    assert trained.info["strategy"] == "pipeline-2"
    published = AutoModelForCausalLM.from_pretrained(registry.fetch(trained.id)).state_dict()
    assert published.keys() == weights.keys()
    assert all(torch.allclose(published[name], weight, atol=1e-4) for name, weight in weights.items())

    verified = result.metrics["verify"]
    assert verified["eval_loss"] == pytest.approx(trained.metrics["eval_loss"], abs=1e-4)
    assert verified["golden_fidelity"] > 0.9
