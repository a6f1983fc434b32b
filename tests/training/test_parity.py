"""Every strategy trains as a plain PyTorch loop in one process does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, get_scheduler

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.errors import ModelError, TrainingError
from fastserve_ray.plan.memory import most_states
from fastserve_ray.plan.model_size import model_size
from fastserve_ray.spec import ModelSpec
from fastserve_ray.training.job import TrainJob, build_model
from tests.training.ranks import NUM_RANKS, Case, Outcome, run_ranks
from tests.training.tiny import WORDS, model_spec, task_of, train_spec, write_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fastserve_ray.plan.peak import States

pytestmark = pytest.mark.slow

FAMILIES = ("gpt2", "llama", "bert")
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"workers": 2},
    "zero1": {"workers": 2, "zero": 1},
    "zero2": {"workers": 2, "zero": 2},
    "zero3": {"workers": 2, "zero": 3},
    "zero2-offload": {"workers": 2, "zero": 2, "offload": "cpu"},
    "zero3-offload": {"workers": 2, "zero": 3, "offload": "cpu"},
    "zero1-disk": {"workers": 2, "zero": 1, "offload": "nvme"},
    "zero2-disk": {"workers": 2, "zero": 2, "offload": "nvme"},
    "zero3-disk": {"workers": 2, "zero": 3, "offload": "nvme"},
    "tensor": {"tensor": 2},
    "tensor-ddp": {"tensor": 2, "workers": 2},
    "tensor-zero1": {"tensor": 2, "workers": 2, "zero": 1},
    "tensor-zero2": {"tensor": 2, "workers": 2, "zero": 2},
    "tensor-zero3": {"tensor": 2, "workers": 2, "zero": 3},
}
"""With two ranks or four."""
ON_DISK = ("zero1-disk", "zero2-disk", "zero3-disk")
ON_TWO_RANKS = ("ddp", "zero1", "zero2", "zero3", "tensor")
RESUMED = (*ON_TWO_RANKS, "zero1-disk", "zero3-disk", "tensor-zero1", "tensor-zero3")
RECOMPUTED = ("ddp", "zero3", "tensor", "tensor-zero3")
OTHERS = ("mistral", "qwen2", "qwen3", "gemma")
VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5},
    "llama": {"max_grad_norm": 0.0, "lr_scheduler_type": "linear"},
    "bert": {"gradient_accumulation_steps": 2, "max_grad_norm": 1.0},
}
"""Clipping and accumulation are on in some. Fifty rows in batches of 8 leave a last batch of 2, which neither two
workers with two micro batches nor their counts of tokens divide evenly."""
MAX_DIFFERENCE = 1e-5
MAX_MEMORY_ERROR = 0.05


class Folders:
    """A prepared dataset a task, and the jobs on them, each with a folder for states of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.num_disks = 0
        self.datasets = {task: write_dataset(root / task, task) for task in ("text-generation", "text-classification")}

    def job(self, family: str, *, dropout: bool = False, **changes: Any) -> TrainJob:
        if changes.get("offload") == "nvme":
            self.num_disks += 1
            changes["offload_folder"] = str(self.root / "disk" / str(self.num_disks))
        train = train_spec(**changes)
        return TrainJob(model_spec(family, dropout=dropout), train, self.datasets[task_of(family)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module")
def outcomes(folders: Folders) -> dict[str, Outcome]:
    """All jobs of this file."""
    cases = [
        Case(f"{name}-{family}", folders.job(family, **spread, **VARIANTS[family]))
        for name, spread in STRATEGIES.items()
        for family in FAMILIES
    ]
    resume: dict[str, Any] = {"max_steps": 9, "checkpoint": {"every_steps": 5}, "gradient_accumulation_steps": 2}
    for name in RESUMED:
        changes = STRATEGIES[name] | resume
        cases.append(Case(f"{name}-resume", folders.job("gpt2", dropout=True, **changes), resume=True))
    for name in ON_TWO_RANKS:
        cases.append(Case(f"{name}-bf16", folders.job("llama", precision="bf16", **STRATEGIES[name])))
    recompute: dict[str, Any] = {"gradient_checkpointing": True}
    for name in RECOMPUTED:
        changes = STRATEGIES[name] | VARIANTS["llama"]
        cases.append(Case(f"{name}-recompute", folders.job("llama", **recompute, **changes)))
    for name, changes in (("dropout", {}), ("dropout-recompute", recompute)):
        cases.append(Case(f"tensor-{name}", folders.job("bert", dropout=True, tensor=2, **changes)))
    for family in OTHERS:
        cases.append(Case(f"tensor-{family}", folders.job(family, tensor=2, **VARIANTS["llama"])))
    cases.append(Case("tensor4-llama", folders.job("llama", tensor=4, **VARIANTS["llama"])))
    cases.append(Case("tensor-none", folders.job("distilbert", tensor=2)))
    nan: dict[str, Any] = {"workers": NUM_RANKS, "learning_rate": 1e30, "max_grad_norm": 0.0, "warmup_ratio": 0.0}
    cases.append(Case("nan", folders.job("gpt2", **nan)))
    return run_by_ranks(folders.root, cases)


def run_by_ranks(root: Path, cases: list[Case]) -> dict[str, Outcome]:
    """One set of processes for each number of ranks."""
    outcomes: dict[str, Outcome] = {}
    for num_ranks in sorted({case.job.train.parallel.num_ranks for case in cases}):
        chosen = [case for case in cases if case.job.train.parallel.num_ranks == num_ranks]
        outcomes |= run_ranks(root / f"ranks-{num_ranks}", chosen, num_ranks)
    return outcomes


def plain_training(job: TrainJob) -> tuple[list[float], dict[str, torch.Tensor], float]:
    """Losses, final weights and validation loss of a loop without any of the package's training code but the first
    weights and the order of the rows."""
    dataset = PreparedDataset.open(job.dataset)
    first, _ = build_model(job, dataset)
    auto = AutoModelForCausalLM if job.model.task == "text-generation" else AutoModelForSequenceClassification
    model = auto.from_config(first.config)
    model.load_state_dict(first.state_dict())
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    train = job.train
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": train.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=train.learning_rate,
    )
    assert train.max_steps is not None
    num_warmup = int(train.warmup_ratio * train.max_steps)
    scheduler = get_scheduler(train.lr_scheduler_type, optimizer, num_warmup, train.max_steps)
    order = epochs(len(dataset.train), train.seed)
    losses = []
    for step in range(train.max_steps):
        per_epoch = -(-len(dataset.train) // train.batch_size)
        start = step % per_epoch * train.batch_size
        chosen = order[step // per_epoch][start : start + train.batch_size]
        loss = model(**plain_batch([dataset.train[int(index)] for index in chosen])).loss
        loss.backward()
        if train.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        eval_loss = float(model(**plain_batch(dataset.validation[:])).loss)
    return losses, model.state_dict(), eval_loss


def epochs(num_rows: int, seed: int) -> list[NDArray[np.int64]]:
    return [np.random.default_rng([seed, epoch]).permutation(num_rows) for epoch in range(10)]


def plain_batch(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row["input_ids"])] = torch.tensor(row["input_ids"].tolist())
        mask[number, : len(row["input_ids"])] = 1
    labels = torch.tensor([row["label"] for row in rows]) if "label" in rows[0] else ids
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_and_weights_are_those_of_plain_training(
    folders: Folders, outcomes: dict[str, Outcome], strategy: str, family: str
) -> None:
    losses, weights, eval_loss = plain_training(folders.job(family, **VARIANTS[family]))
    found = outcomes[f"{strategy}-{family}"]
    assert found.error is None
    assert losses[-1] < 0.9 * losses[0]
    assert np.abs(np.array(found.losses) - np.array(losses)).max() <= MAX_DIFFERENCE
    assert found.metrics["eval_loss"] == pytest.approx(eval_loss, abs=MAX_DIFFERENCE)
    assert found.weights.keys() == weights.keys()
    assert all(torch.allclose(found.weights[name], weight, atol=1e-4) for name, weight in weights.items())


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if "zero3" not in name])
def test_what_several_ranks_hold_stays_the_same(outcomes: dict[str, Outcome], strategy: str) -> None:
    assert all(outcomes[f"{strategy}-{family}"].replicas_agree for family in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if "offload" not in name])
def test_ranks_hold_what_the_plan_says(
    folders: Folders, outcomes: dict[str, Outcome], strategy: str, family: str
) -> None:
    job = folders.job(family, **STRATEGIES[strategy], **VARIANTS[family])
    assert_held_as_planned(outcomes[f"{strategy}-{family}"], job)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", ON_DISK)
def test_master_weights_and_moments_lie_in_mapped_files(
    folders: Folders, outcomes: dict[str, Outcome], strategy: str, family: str
) -> None:
    """As many bytes as the plan says of the same stage in memory; no file is left behind."""
    found = outcomes[f"{strategy}-{family}"]
    assert found.held is not None
    assert (found.held.master, found.held.optimizer) == (0, 0)
    in_memory = folders.job(family, **(STRATEGIES[strategy] | {"offload": "none"}), **VARIANTS[family])
    assert found.mapped == pytest.approx(planned(in_memory).optimizer, rel=MAX_MEMORY_ERROR)
    assert not any(path.is_file() for path in (folders.root / "disk").rglob("*"))


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
def test_ranks_hold_what_the_plan_says_in_bf16(folders: Folders, outcomes: dict[str, Outcome], strategy: str) -> None:
    job = folders.job("llama", precision="bf16", **STRATEGIES[strategy])
    assert_held_as_planned(outcomes[f"{strategy}-bf16"], job)


def planned(job: TrainJob) -> States:
    config = {**(job.model.config or {}), "vocab_size": WORDS + 3}
    return most_states(model_size(ModelSpec(task=job.model.task, config=config)), job.train, task=job.model.task)


def assert_held_as_planned(outcome: Outcome, job: TrainJob) -> None:
    """The weights, the gradients, and the optimizer with its master copy, each within 5%."""
    said, held = planned(job), outcome.held
    assert held is not None
    found = (held.parameters, held.gradients, held.master + held.optimizer)
    assert found == pytest.approx((said.parameters, said.gradients, said.optimizer), rel=MAX_MEMORY_ERROR)


@pytest.mark.parametrize(("name", "family"), [("tensor4-llama", "llama"), *((f"tensor-{f}", f) for f in OTHERS)])
def test_families_that_tensor_parallelism_cuts(
    folders: Folders, outcomes: dict[str, Outcome], name: str, family: str
) -> None:
    """Four ranks share Llama's two key and value heads, and two ranks Gemma's one."""
    losses, weights, _ = plain_training(folders.job(family, **VARIANTS["llama"]))
    found = outcomes[name]
    assert losses[-1] < 0.9 * losses[0]
    assert np.abs(np.array(found.losses) - np.array(losses)).max() <= MAX_DIFFERENCE
    assert found.weights.keys() == weights.keys()
    assert all(torch.allclose(found.weights[name], weight, atol=1e-4) for name, weight in weights.items())


def test_a_family_without_a_plan_is_refused_by_name(outcomes: dict[str, Outcome]) -> None:
    error = outcomes["tensor-none"].error
    assert isinstance(error, ModelError)
    assert "distilbert" in str(error)
    assert "bert, gemma, gpt2, llama" in str(error)


def test_dropout_is_the_same_where_activations_are_whole(outcomes: dict[str, Outcome]) -> None:
    """Else the ranks' copies of norms and biases would drift apart. Recomputation draws it again as it was."""
    found, recomputed = outcomes["tensor-dropout"], outcomes["tensor-dropout-recompute"]
    assert found.replicas_agree
    assert found.losses != outcomes["tensor-bert"].losses
    assert found.losses == recomputed.losses


@pytest.mark.parametrize("strategy", RESUMED)
def test_a_resumed_run_ends_with_the_same_bits(outcomes: dict[str, Outcome], strategy: str) -> None:
    """Dropout is on: it must go on where it was."""
    found = outcomes[f"{strategy}-resume"]
    assert found.resumed_weights is not None
    assert all(torch.equal(weight, found.resumed_weights[name]) for name, weight in found.weights.items())


@pytest.mark.parametrize("strategy", ON_TWO_RANKS)
def test_bf16_learns(outcomes: dict[str, Outcome], strategy: str) -> None:
    found = outcomes[f"{strategy}-bf16"]
    assert found.losses[-1] < 0.9 * found.losses[0]
    assert found.losses != outcomes[f"{strategy}-llama"].losses


@pytest.mark.parametrize("strategy", RECOMPUTED)
def test_recomputed_activations_change_nothing(outcomes: dict[str, Outcome], strategy: str) -> None:
    difference = np.array(outcomes[f"{strategy}-recompute"].losses) - np.array(outcomes[f"{strategy}-llama"].losses)
    assert np.abs(difference).max() <= MAX_DIFFERENCE


def test_a_loss_that_is_no_number_stops_training_at_once(outcomes: dict[str, Outcome]) -> None:
    found = outcomes["nan"]
    assert isinstance(found.error, TrainingError)
    assert len(found.losses) < 20
    assert found.error.key == "train.learning_rate"
    assert f"in step {len(found.losses) + 1} of 20" in str(found.error)


def test_an_error_of_one_worker_reaches_all(outcomes: dict[str, Outcome]) -> None:
    """Rank 0 had none of its own."""
    assert isinstance(outcomes["first error"].error, ModelError)
