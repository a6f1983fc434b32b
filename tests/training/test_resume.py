"""A run that stopped goes on with another number of workers and another strategy, as if it had not stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from fastserve_ray.training.checkpoint.reader import CheckpointReader
from fastserve_ray.training.hooks import Hooks
from fastserve_ray.training.in_process import train_in_process
from fastserve_ray.training.job import TrainJob
from tests.training.ranks import Case, Outcome, run_ranks
from tests.training.tiny import model_spec, task_of, train_spec, write_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.training.checkpoint.slices import Snapshot

pytestmark = pytest.mark.slow

SAVED, STEPS = 8, 16
"""Checkpoints are of the first step of the second epoch, and the last batch of that epoch has two rows."""
STRATEGIES: dict[str, dict[str, Any]] = {"ddp": {}, "zero1": {"zero": 1}, "zero2": {"zero": 2}, "zero3": {"zero": 3}}
DISK: dict[str, dict[str, Any]] = {
    "zero2-disk": {"zero": 2, "offload": "nvme"},
    "zero3-disk": {"zero": 3, "offload": "nvme"},
}
TENSOR: dict[str, dict[str, Any]] = {
    "tensor-zero3": {"tensor": 2, "workers": 2, "zero": 3},
    "tensor-pipeline": {"tensor": 2, "pipeline": 2, "workers": 1},
}
"""On four ranks."""
FAMILIES = ("gpt2", "bert")
TO_TWO = [
    ("ddp", "zero3", "gpt2"),
    ("zero1", "ddp", "bert"),
    ("zero2", "zero1", "gpt2"),
    ("zero3", "zero2", "bert"),
    ("zero3", "ddp", "gpt2"),
    ("zero3-disk", "zero1", "bert"),
    ("tensor-zero3", "zero1", "gpt2"),
    ("tensor-zero3", "zero3", "bert"),
]
"""Strategies before and after, from four workers to two, and the model."""
FOUR = sorted({(before, family) for before, _, family in TO_TWO})
FROM_ONE = ("ddp", "zero1", "zero2", "zero3", "zero2-disk")
"""Strategies of two workers that go on from one."""
TO_FOUR = [("one", "tensor-zero3"), ("one", "tensor-pipeline"), ("tensor-zero3-gpt2", "tensor-pipeline")]
"""Checkpoints of GPT-2, and strategies of four ranks that go on from them."""
BF16 = ("zero1", "zero3")
"""Strategies whose forward pass reads other weights than the optimizer writes."""
MAX_DIFFERENCE = 1e-5


UNEVEN = {"max_steps": 2, "checkpoint": {"every_steps": 1}, "max_grad_norm": 0.0, "warmup_ratio": 0.0}
"""The checkpoint is of the first step."""


@dataclass
class Runs:
    """Losses of the steps after the checkpoint by name of the run, those of ``whole-<family>`` uninterrupted."""

    root: Path
    losses: dict[str, list[float]]
    outcomes: dict[str, Outcome]
    """Of two workers."""


def job_of(root: Path, family: str, **parallel: Any) -> TrainJob:
    if parallel.get("offload") == "nvme":
        parallel["offload_folder"] = str(root / "disk")
    train = train_spec(max_steps=STEPS, checkpoint={"every_steps": SAVED}, max_grad_norm=0.5, **parallel)
    return TrainJob(model_spec(family), train, root / task_of(family))


def uneven_job(root: Path, **changes: Any) -> TrainJob:
    """Rows of BERT's data have unequal numbers of tokens."""
    train = train_spec(gradient_accumulation_steps=2, **UNEVEN, **changes)
    return TrainJob(model_spec("bert"), train, root / task_of("bert"))


def train_alone(root: Path, family: str, *, save: bool = False, resume_from: Path | None = None) -> list[float]:
    def keep(step: int, snapshot: Snapshot) -> None:
        snapshot.write_folder(root / f"one-{family}")

    losses: list[float] = []
    hooks = Hooks(
        on_step=lambda step, loss: losses.append(loss), on_checkpoint=keep if save else None, resume_from=resume_from
    )
    train_in_process(job_of(root, family), hooks, num_threads=1)
    return losses


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("resume")
    for task in ("text-generation", "text-classification"):
        write_dataset(root / task, task)
    losses = {f"whole-{family}": train_alone(root, family, save=True)[SAVED:] for family in FAMILIES}
    spread = {name: {"workers": 4, **parallel} for name, parallel in (STRATEGIES | DISK | TENSOR).items()}
    four = [Case(f"{name}-{family}", job_of(root, family, **spread[name]), saves=True) for name, family in FOUR]
    saved = {"one": root / "one-gpt2", "tensor-zero3-gpt2": root / "four" / "tensor-zero3-gpt2"}
    four += [
        Case(f"{before}-{after}", job_of(root, "gpt2", **spread[after]), resume_from=saved[before])
        for before, after in TO_FOUR
    ]
    outcomes = run_ranks(root / "four", four, 4)
    two = [
        Case(
            f"{before}-{after}-{family}",
            job_of(root, family, workers=2, **STRATEGIES[after]),
            resume_from=root / "four" / f"{before}-{family}",
        )
        for before, after, family in TO_TWO
    ]
    two += [
        Case(
            f"one-{after}", job_of(root, "gpt2", workers=2, **(STRATEGIES | DISK)[after]), resume_from=root / "one-gpt2"
        )
        for after in FROM_ONE
    ]
    two.append(
        Case("slow", job_of(root, "gpt2", workers=2, balance="measured"), seconds_per_row=0.05),
    )
    two += [
        Case(f"shares-{name}", uneven_job(root, workers=2, balance="measured", **parallel), saves=True, shares=(7, 1))
        for name, parallel in STRATEGIES.items()
    ]
    two += [
        Case(f"bf16-{name}", job_of(root, "gpt2", workers=2, precision="bf16", **STRATEGIES[name]), resume=True)
        for name in BF16
    ]
    outcomes |= run_ranks(root / "two", two)
    return Runs(root, losses | {name: outcome.losses for name, outcome in outcomes.items()}, outcomes)


def assert_goes_on(runs: Runs, losses: list[float], family: str) -> None:
    whole = runs.losses[f"whole-{family}"]
    assert len(losses) == len(whole) == STEPS - SAVED
    assert np.abs(np.array(losses) - np.array(whole)).max() <= MAX_DIFFERENCE


@pytest.mark.parametrize(("before", "after", "family"), TO_TWO)
def test_from_four_workers_to_two_and_another_strategy(runs: Runs, before: str, after: str, family: str) -> None:
    assert_goes_on(runs, runs.losses[f"{before}-{after}-{family}"], family)


@pytest.mark.parametrize(("before", "family"), FOUR)
def test_from_four_workers_to_one(runs: Runs, before: str, family: str) -> None:
    losses = train_alone(runs.root, family, resume_from=runs.root / "four" / f"{before}-{family}")
    assert_goes_on(runs, losses, family)


@pytest.mark.parametrize("after", FROM_ONE)
def test_from_one_worker_to_two(runs: Runs, after: str) -> None:
    assert_goes_on(runs, runs.losses[f"one-{after}"], "gpt2")


@pytest.mark.parametrize(("before", "after"), TO_FOUR)
def test_from_one_worker_or_four_to_cut_layers(runs: Runs, before: str, after: str) -> None:
    assert_goes_on(runs, runs.losses[f"{before}-{after}"], "gpt2")


@pytest.mark.parametrize("strategy", BF16)
def test_bf16_goes_on_with_the_same_bits(runs: Runs, strategy: str) -> None:
    found = runs.outcomes[f"bf16-{strategy}"]
    assert found.resumed_weights is not None
    assert all(torch.equal(weight, found.resumed_weights[name]) for name, weight in found.weights.items())


@pytest.mark.parametrize(("strategy", "family"), FOUR)
def test_every_rank_writes_a_share(runs: Runs, strategy: str, family: str) -> None:
    """No rank gathers the model: the largest file is little more than a fourth."""
    folder = runs.root / "four" / f"{strategy}-{family}"
    sizes = [path.stat().st_size for path in sorted(folder.glob("*.safetensors"))]
    assert len(sizes) == CheckpointReader(folder).num_parts == 4
    assert max(sizes) < 0.35 * sum(sizes)


def test_a_slow_worker_gets_few_rows_and_losses_stay(runs: Runs) -> None:
    """It sleeps 50 ms a row; a row takes the other one much less."""
    found = runs.outcomes["slow"]
    assert found.error is None
    assert found.shares is not None
    assert found.shares[0] > found.shares[1] >= 1
    assert np.abs(np.array(found.losses[SAVED:]) - np.array(runs.losses["whole-gpt2"])).max() <= MAX_DIFFERENCE


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_of_unequal_shares_are_those_of_one_process(runs: Runs, tmp_path: Path, strategy: str) -> None:
    """Seven rows of eight on one worker. After one step Adam's first moment is the gradient times 1 - beta."""
    alone = Hooks(on_checkpoint=lambda step, snapshot: snapshot.write_folder(tmp_path))
    train_in_process(uneven_job(runs.root), alone, num_threads=1)
    expected, found = CheckpointReader(tmp_path), CheckpointReader(runs.root / "two" / f"shares-{strategy}")
    assert found.state["shares"] == [7, 1]
    for name in expected.names("exp_avg"):
        gradients = [reader.full("exp_avg", name) / (1 - 0.9) for reader in (expected, found)]
        assert float((gradients[0] - gradients[1]).abs().max()) <= 1e-6, name
