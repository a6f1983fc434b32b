"""What a strategy does for the loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from pydantic import JsonValue

    from fastserve_ray.spec import TrainSpec
    from fastserve_ray.tasks.protocol import LossSum
    from fastserve_ray.training.checkpoint.reader import CheckpointReader
    from fastserve_ray.training.checkpoint.slices import Slice
    from fastserve_ray.training.world import World

Batch = Mapping[str, Any] | Any
"""What an objective takes: the tensors of a task's batch on the worker's device, or any other batch of a module."""


class Objective(Protocol):
    """What is minimised; a ``Task`` is one."""

    def loss(self, model: Any, batch: Any) -> LossSum:
        """One forward pass of ``model``, or of anything that is called like it."""
        ...


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one forward pass."""

    batch: Batch
    weight: float
    """Factor of its summed loss in the loss of the step: one over the global count of labels. 0 for a filler, which a
    worker without rows passes through the model so that it takes part in every exchange."""


@dataclass
class Sums:
    """Sums over batches of an evaluation."""

    total: float = 0.0
    count: float = 0.0
    correct: float = 0.0


@runtime_checkable
class MeasuredStrategy(Protocol):
    """One that tells what a worker computes from what it waits for; needed for ``train.balance: measured``."""

    computing_seconds: float
    """Of this worker's passes in the last step, without waiting for other workers."""


class Strategy(Protocol):
    """Owns the spread model and the optimizer. Every method is called by all workers together."""

    def setup(
        self, model: torch.nn.Module, train: TrainSpec, world: World, objective: Objective, sample: Batch
    ) -> None:
        """Move the model to its device, cut or wrap it, and build the optimizer.

        Args:
            model: the same whole model on every worker; it may be changed in place, and is left with its config.
            sample: a batch of one row, the same on every worker.
        """
        ...

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> float:
        """Forward, backward, exchange, clip and update, with this rate.

        The gradient is that of the sum over all workers' micro batches of weight times loss.

        Args:
            micro_batches: of this worker's share of the rows; as many on every worker. Ranks of one share (the same
                ``world.data_rank``) get the same.

        Returns:
            the summed loss of the share, without fillers and weights, on every rank of the share.
        """
        ...

    def evaluate(self, micro_batches: Iterable[MicroBatch]) -> Sums:
        """Sums over this worker's share of the rows, without gradients and dropout; fillers (weight 0) do not count.
        As many micro batches on every worker, and the result on every rank of the share."""
        ...

    def slices(self) -> Iterator[Slice]:
        """This worker's part of a checkpoint: trained weights, optimizer state and buffers, under the names and with
        places in the shapes of the whole unwrapped model. What several workers hold may come from one of them."""
        ...

    def state(self) -> dict[str, JsonValue]:
        """What else a checkpoint needs, the same on every worker; ``load`` finds it in ``checkpoint.state``."""
        ...

    def load(self, checkpoint: CheckpointReader) -> None:
        """Go on from a checkpoint of any strategy and any number of workers."""
        ...

    def full_state_dict(self) -> dict[str, torch.Tensor] | None:
        """The weights on the CPU under the names and in the shapes of the whole unwrapped model, on worker 0; None on
        the others."""
        ...
