"""Forward and backward passes over micro batches, where a model is called in one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fastserve_ray.training.strategies.protocol import Sums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from fastserve_ray.training.strategies.protocol import Batch, MicroBatch, Objective


class Passes:
    """Runs an objective over micro batches.

    Args:
        objective: gives the loss.
        autocast: makes the context of a forward pass.
    """

    def __init__(self, objective: Objective, autocast: Callable[[], AbstractContextManager[object]]) -> None:
        self._objective = objective
        self._autocast = autocast

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The summed loss of one forward pass, with its gradient."""
        with self._autocast():
            return self._objective.loss(model, batch).total

    def train(
        self,
        model: torch.nn.Module,
        micro_batches: Sequence[MicroBatch],
        backward: Callable[[torch.Tensor, bool], None],
        scale: float,
    ) -> float:
        """The summed loss.

        Args:
            backward: gets the weighted loss of each micro batch, and whether it is the last one.
            scale: factor of every weight.
        """
        losses = []
        for position, micro in enumerate(micro_batches):
            total = self.loss(model, micro.batch)
            backward(total * (micro.weight * scale), position == len(micro_batches) - 1)
            if micro.weight:
                losses.append(total.detach())
        return float(torch.stack(losses).double().sum()) if losses else 0.0

    def evaluate(self, model: torch.nn.Module, micro_batches: Iterable[MicroBatch]) -> Sums:
        """Sums over all but fillers; ``model`` is in evaluation mode."""
        sums = Sums()
        with torch.no_grad():
            for micro in micro_batches:
                with self._autocast():
                    found = self._objective.loss(model, micro.batch)
                if micro.weight:
                    sums.total += float(found.total)
                    sums.count += float(found.count)
                    sums.correct += float(found.correct)
        return sums
