"""Training of any torch module on any indexable dataset, with the strategies of the main loop. No Ray.

For models that are no transformers task: the loss is the one that the model returns, or one between output and target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import functional
from torch.utils.data import default_collate

from fastserve_ray.errors import DataError
from fastserve_ray.events.progress import Progress, silent
from fastserve_ray.tasks.protocol import LossSum
from fastserve_ray.training.batches import BatchPlan
from fastserve_ray.training.failures import DivergedError
from fastserve_ray.training.schedule import learning_rate
from fastserve_ray.training.strategies.protocol import MicroBatch
from fastserve_ray.training.strategies.table import make_strategy

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.spec import TrainSpec
    from fastserve_ray.training.world import World


class IndexedDataset(Protocol):
    """A list, a map-style ``torch.utils.data.Dataset``, or a Hugging Face dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class ModuleJob:
    """A module, its data and how to train it."""

    model: torch.nn.Module
    dataset: IndexedDataset
    """Items are mappings of tensors that the model takes by name (with ``labels``, as in transformers), or pairs of
    an input and a target."""
    train: TrainSpec
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    """Mean loss of output and target, for pairs; default: cross-entropy for whole-number targets, else the squared
    error."""
    collate: Callable[[list[Any]], Any] | None = None
    """Items to a batch; default: torch's ``default_collate``."""


@dataclass(frozen=True)
class ModuleResult:
    """What one worker returns."""

    losses: list[float]
    """Mean loss of each optimizer step over the global batch."""
    state_dict: dict[str, torch.Tensor] | None
    """On worker 0."""


def train_module(job: ModuleJob, world: World, progress: Progress = silent) -> ModuleResult:
    """Train on this worker's share of every batch; gradients are weighted by rows, so that any number of workers
    trains as one would.

    Raises:
        DataError: the dataset is empty, or its items are of another form.
        DivergedError: the loss is no longer a number.
    """
    if not len(job.dataset):
        raise DataError("the dataset is empty", key="dataset")
    plan = BatchPlan(len(job.dataset), job.train.batch_size, job.train.seed)
    total = job.train.max_steps or max(1, math.ceil(job.train.num_epochs * plan.steps_per_epoch))
    strategy = make_strategy(job.train.parallel)
    objective = _Objective(job, world)
    strategy.setup(job.model, job.train, world, objective, [job.dataset[0]])
    losses = []
    for step in range(total):
        rows = plan.micro_batches(step, rank=world.data_rank, size=world.data_size, accumulation=1)[0]
        count = len(plan.global_batch(step))
        items = [job.dataset[int(row)] for row in rows]
        micro = MicroBatch(items or [job.dataset[0]], 1.0 / count if items else 0.0)
        rate = learning_rate(job.train, step, total)
        mean = world.sum(strategy.train_step([micro], rate))[0] / count
        if not math.isfinite(mean):
            raise DivergedError(
                f"the loss became {mean} in step {step + 1}", value=f"learning rate {rate:.3g}", key="learning_rate"
            )
        losses.append(mean)
        progress(step=step + 1, total=total, loss=mean)
    return ModuleResult(losses, strategy.full_state_dict())


class _Objective:
    """The loss of a list of items, as a sum over rows."""

    def __init__(self, job: ModuleJob, world: World) -> None:
        self._job = job
        self._world = world

    def loss(self, model: torch.nn.Module, batch: list[Any]) -> LossSum:
        mean = _loss(self._job, model, batch, self._world)
        return LossSum(mean * len(batch), torch.tensor(len(batch)), torch.tensor(0))


def _loss(job: ModuleJob, model: torch.nn.Module, items: list[Any], world: World) -> torch.Tensor:
    """The mean loss over ``items``."""
    batch = (job.collate or default_collate)(items)
    if isinstance(batch, dict):
        output = model(**{name: value.to(world.device) for name, value in batch.items()})
        loss = output["loss"] if isinstance(output, dict) else getattr(output, "loss", None)
        if loss is None:
            raise DataError("the model returned no loss", allowed="items with a key labels", key="dataset")
        return loss
    if not (isinstance(batch, list | tuple) and len(batch) == 2):
        raise DataError(
            "items of the dataset have an unknown form",
            value=type(items[0]).__name__,
            allowed="a mapping of tensors with labels, or a pair of input and target",
            key="dataset",
        )
    inputs, target = (value.to(world.device) for value in batch)
    output = model(inputs)
    output = getattr(output, "logits", output)
    if job.loss is not None:
        return job.loss(output, target)
    if target.is_floating_point():
        return functional.mse_loss(output, target)
    return functional.cross_entropy(output, target)
