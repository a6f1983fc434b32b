"""Pipelines train as a plain PyTorch loop in one process does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastserve_ray.training.hooks import Hooks
from fastserve_ray.training.in_process import train_in_process
from fastserve_ray.training.job import TrainJob
from tests.training.ranks import Case, Outcome
from tests.training.test_parity import (
    FAMILIES,
    MAX_DIFFERENCE,
    Folders,
    assert_held_as_planned,
    plain_training,
    run_by_ranks,
)
from tests.training.tiny import model_spec, task_of, train_spec

pytestmark = pytest.mark.slow

STRATEGIES: dict[str, dict[str, Any]] = {
    "two": {"pipeline": 2},
    "two-gpipe": {"pipeline": 2, "schedule": "gpipe"},
    "four": {"pipeline": 4},
    "two-time": {"pipeline": 2, "balance_stages": "time"},
    "two-ddp": {"pipeline": 2, "workers": 2},
    "two-zero1": {"pipeline": 2, "workers": 2, "zero": 1},
    "two-tensor": {"pipeline": 2, "tensor": 2},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": {"gradient_accumulation_steps": 4, "max_grad_norm": 0.5},
    "llama": {"gradient_accumulation_steps": 2, "max_grad_norm": 0.0},
    "bert": {"gradient_accumulation_steps": 4, "max_grad_norm": 1.0},
}
"""GPT-2 ties embedding and head, Llama here does not. The last batch of an epoch has two rows: some micro batches are
fillers. Four stages with two micro batches never fill up."""
LAYERS = {"gpt2": "n_layer", "llama": "num_hidden_layers", "bert": "num_hidden_layers"}
NUM_LAYERS = 4
RESUME: dict[str, Any] = {"max_steps": 9, "checkpoint": {"every_steps": 5}, "gradient_accumulation_steps": 2}
RESUMED = ("two", "two-zero1", "two-tensor")
MOVED = ("two-zero1", "two-tensor")
"""One process goes on from their checkpoints, and the last from one of one process."""
THREE: dict[str, Any] = {"pipeline": 2, "tensor": 2, "workers": 2, "zero": 1}


def job(folders: Folders, family: str, *, dropout: bool = False, **changes: Any) -> TrainJob:
    spec = model_spec(family, dropout=dropout)
    deeper = spec.model_copy(update={"config": {**(spec.config or {}), LAYERS[family]: NUM_LAYERS}})
    return TrainJob(deeper, train_spec(**changes), folders.datasets[task_of(family)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def outcomes(folders: Folders) -> dict[str, Outcome]:
    """All jobs of this file."""
    cases = [
        Case(f"{name}-{family}", job(folders, family, **spread, **VARIANTS[family]))
        for name, spread in STRATEGIES.items()
        for family in FAMILIES
    ]
    for name in RESUMED:
        again = job(folders, "gpt2", dropout=True, **STRATEGIES[name], **RESUME)
        cases.append(Case(f"{name}-resume", again, resume=True))
    for name in MOVED:
        cases.append(Case(f"{name}-moved", job(folders, "gpt2", **STRATEGIES[name], **RESUME), saves=True))
    alone = folders.root / "alone"
    train_in_process(
        job(folders, "gpt2", **RESUME), Hooks(on_checkpoint=lambda _, part: part.write_folder(alone)), num_threads=1
    )
    cases.append(Case("back", job(folders, "gpt2", **STRATEGIES["two-tensor"], **RESUME), resume_from=alone))
    cases.append(Case("three", job(folders, "gpt2", **THREE, **VARIANTS["gpt2"])))
    recompute = job(folders, "llama", gradient_checkpointing=True, **STRATEGIES["two"], **VARIANTS["llama"])
    cases.append(Case("recompute", recompute))
    cases.append(Case("bf16", job(folders, "llama", precision="bf16", **STRATEGIES["two"], **VARIANTS["llama"])))
    return run_by_ranks(folders.root, cases)


@pytest.fixture(scope="module")
def expected(folders: Folders) -> dict[str, tuple[list[float], dict[str, torch.Tensor], float]]:
    return {family: plain_training(job(folders, family, **VARIANTS[family])) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_and_weights_are_those_of_plain_training(
    expected: dict[str, Any], outcomes: dict[str, Outcome], strategy: str, family: str
) -> None:
    losses, weights, eval_loss = expected[family]
    found = outcomes[f"{strategy}-{family}"]
    assert found.error is None
    assert losses[-1] < 0.9 * losses[0]
    assert np.abs(np.array(found.losses) - np.array(losses)).max() <= MAX_DIFFERENCE
    assert found.metrics["eval_loss"] == pytest.approx(eval_loss, abs=MAX_DIFFERENCE)
    assert found.weights.keys() == weights.keys()
    assert all(torch.allclose(found.weights[name], weight, atol=1e-4) for name, weight in weights.items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "two-time"])
def test_ranks_hold_what_the_plan_says(
    folders: Folders, outcomes: dict[str, Outcome], strategy: str, family: str
) -> None:
    """Of stages cut by time it knows nothing."""
    planned = job(folders, family, **STRATEGIES[strategy], **VARIANTS[family])
    assert_held_as_planned(outcomes[f"{strategy}-{family}"], planned)


def test_tied_weights_are_one_tensor(outcomes: dict[str, Outcome]) -> None:
    """So that a model folder has them once."""
    weights = outcomes["two-gpt2"].weights
    assert weights["transformer.wte.weight"] is weights["lm_head.weight"]


@pytest.mark.parametrize("strategy", ["two-ddp", "two-zero1", "two-tensor"])
def test_workers_with_the_same_stage_hold_the_same_weights(outcomes: dict[str, Outcome], strategy: str) -> None:
    assert all(outcomes[f"{strategy}-{family}"].replicas_agree for family in FAMILIES)


@pytest.mark.parametrize("strategy", RESUMED)
def test_a_resumed_run_ends_with_the_same_bits(outcomes: dict[str, Outcome], strategy: str) -> None:
    """Dropout is on: it must go on where it was."""
    found = outcomes[f"{strategy}-resume"]
    assert found.resumed_weights is not None
    assert found.losses != outcomes[f"{strategy}-gpt2"].losses[: len(found.losses)]
    assert all(torch.equal(weight, found.resumed_weights[name]) for name, weight in found.weights.items())


@pytest.mark.parametrize("strategy", MOVED)
def test_one_process_goes_on_where_a_pipeline_stopped(
    folders: Folders, outcomes: dict[str, Outcome], strategy: str
) -> None:
    """Four ranks wrote the checkpoint."""
    losses: list[float] = []
    saved = folders.root / "ranks-4" / f"{strategy}-moved"
    hooks = Hooks(on_step=lambda step, loss: losses.append(loss), resume_from=saved)
    train_in_process(job(folders, "gpt2", **RESUME), hooks, num_threads=1)
    assert losses == pytest.approx(outcomes[f"{strategy}-moved"].losses[5:], abs=MAX_DIFFERENCE)


def test_a_pipeline_of_cut_layers_goes_on_where_one_process_stopped(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["back"].losses == pytest.approx(outcomes["two-tensor-moved"].losses[5:], abs=MAX_DIFFERENCE)


def test_tensor_by_pipeline_by_data_trains_as_one_process(
    expected: dict[str, Any], outcomes: dict[str, Outcome]
) -> None:
    """Eight ranks, with ZeRO 1: embeddings are cut, tied over the stages, and updated by one worker of two."""
    losses, weights, _ = expected["gpt2"]
    found = outcomes["three"]
    assert found.error is None
    assert np.abs(np.array(found.losses) - np.array(losses)).max() <= MAX_DIFFERENCE
    assert found.replicas_agree
    assert all(torch.allclose(found.weights[name], weight, atol=1e-4) for name, weight in weights.items())


def test_schedules_differ_in_order_alone(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["two-llama"].losses == outcomes["two-gpipe-llama"].losses


def test_recomputed_activations_change_nothing(outcomes: dict[str, Outcome]) -> None:
    difference = np.array(outcomes["recompute"].losses) - np.array(outcomes["two-llama"].losses)
    assert np.abs(difference).max() <= MAX_DIFFERENCE


def test_bf16_learns(outcomes: dict[str, Outcome]) -> None:
    found = outcomes["bf16"]
    assert found.losses[-1] < 0.9 * found.losses[0]
    assert found.losses != outcomes["two-llama"].losses
