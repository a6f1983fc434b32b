"""Adapters train on several workers as they do on one, and go on from a checkpoint that holds only what is trained."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from fastserve_ray.training.hooks import Hooks
from fastserve_ray.training.job import TrainJob
from fastserve_ray.training.loop import TrainingLoop
from tests.training.ranks import NUM_RANKS, Case, Outcome, run_ranks
from tests.training.tiny import model_spec, task_of, train_spec, write_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.training.checkpoint.slices import Snapshot

pytestmark = pytest.mark.slow

LORA: dict[str, Any] = {"kind": "lora", "lora_r": 4}
ADALORA: dict[str, Any] = {"kind": "adalora", "init_r": 4, "target_r": 2, "every_steps": 2}
PROMPT: dict[str, Any] = {"kind": "prompt", "num_virtual_tokens": 4}
PREFIX: dict[str, Any] = {"kind": "prefix", "num_virtual_tokens": 4}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "ddp-lora": ("llama", 0, {"adapter": LORA}),
    "ddp-adalora": ("gpt2", 0, {"adapter": ADALORA}),
    "ddp-ia3": ("bert", 0, {"adapter": {"kind": "ia3"}}),
    "ddp-prompt": ("gpt2", 0, {"adapter": PROMPT}),
    "ddp-prefix": ("llama", 0, {"adapter": PREFIX}),
    "ddp-freeze": ("llama", 0, {"freeze": ["model.layers.0.*"], "layer_lr_decay": 0.5}),
    "zero1-lora": ("bert", 1, {"adapter": LORA}),
    "zero1-ia3": ("llama", 1, {"adapter": {"kind": "ia3"}}),
    "zero1-prompt": ("gpt2", 1, {"adapter": PROMPT}),
    "zero1-prefix": ("llama", 1, {"adapter": PREFIX}),
    "zero2-lora": ("gpt2", 2, {"adapter": LORA}),
    "zero2-ia3": ("gpt2", 2, {"adapter": {"kind": "ia3"}}),
    "zero2-prompt": ("llama", 2, {"adapter": PROMPT}),
    "zero2-prefix": ("gpt2", 2, {"adapter": PREFIX}),
    "zero2-freeze": ("gpt2", 2, {"freeze": ["transformer.wte.*"], "layer_lr_decay": 0.5}),
    "zero3-lora": ("llama", 3, {"adapter": LORA}),
    "zero3-ia3": ("gpt2", 3, {"adapter": {"kind": "ia3"}}),
    "zero3-prompt": ("llama", 3, {"adapter": PROMPT}),
    "zero3-prefix": ("gpt2", 3, {"adapter": PREFIX}),
}
"""Every kind with every strategy that the table in docs/training.md has for it."""
RESUMED = ("ddp-adalora", "zero2-prompt", "zero3-lora", "zero3-prefix")
MAX_DIFFERENCE = 1e-5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spread")
    for task in ("text-generation", "text-classification"):
        write_dataset(folder / task, task)
    return folder


def job_of(root: Path, name: str, *, workers: int = NUM_RANKS, dropout: bool = False, **more: Any) -> TrainJob:
    family, zero, changes = CASES[name]
    spread = {"workers": workers, "zero": zero if workers > 1 else 0}
    train = train_spec(**{"learning_rate": 5e-3, **changes, **more}, **spread)
    return TrainJob(model_spec(family, dropout=dropout), train, root / task_of(family))


@pytest.fixture(scope="module")
def outcomes(root: Path) -> dict[str, Outcome]:
    """All of this file, run by one pair of processes."""
    every: dict[str, Any] = {"checkpoint": {"every_steps": 5}, "max_steps": 12}
    cases = [Case(name, job_of(root, name)) for name in CASES]
    cases += [Case(f"{name}-resume", job_of(root, name, **every), resume=True) for name in RESUMED]
    return run_ranks(root / "ranks", cases)


def alone(job: TrainJob) -> tuple[list[float], dict[str, torch.Tensor]]:
    losses: list[float] = []
    result = TrainingLoop(job, None, Hooks(on_step=lambda step, loss: losses.append(loss))).run()
    assert result.state_dict is not None
    return losses, result.state_dict


@pytest.mark.parametrize("name", CASES)
def test_two_workers_train_what_one_does(root: Path, outcomes: dict[str, Outcome], name: str) -> None:
    found = outcomes[name]
    assert found.error is None
    losses, weights = alone(job_of(root, name, workers=1))
    assert np.abs(np.array(found.losses) - np.array(losses)).max() <= MAX_DIFFERENCE
    assert found.weights.keys() == weights.keys()
    assert all(torch.allclose(found.weights[key], weight, atol=1e-4) for key, weight in weights.items())


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_adapter_ends_with_the_same_bits(outcomes: dict[str, Outcome], name: str) -> None:
    found = outcomes[f"{name}-resume"]
    assert found.error is None
    assert found.resumed_weights is not None
    assert all(torch.equal(weight, found.resumed_weights[key]) for key, weight in found.weights.items())


def test_a_checkpoint_holds_only_what_is_trained(root: Path, tmp_path: Path) -> None:
    def keep(step: int, snapshot: Snapshot) -> None:
        snapshot.write_folder(tmp_path / str(step))

    job = job_of(root, "ddp-lora", workers=1, checkpoint={"every_steps": 5}, max_steps=6)
    TrainingLoop(job, None, Hooks(on_checkpoint=keep)).run()
    (index,) = (tmp_path / "5").glob("slices-*.json")
    names = {part["name"] for part in json.loads(index.read_text())["slices"] if part["kind"] == "weight"}
    assert names
    assert all(".lora_" in name for name in names)
