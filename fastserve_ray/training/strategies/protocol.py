"""What a strategy does for the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.spec import TrainSpec
    from fastserve_ray.training.world import World

Probe = Callable[[], torch.Tensor]
"""The loss of one row through the bare model."""


class Strategy(Protocol):
    """Owns the wrapped model and the optimizer. Every method is called by all workers together."""

    @property
    def model(self) -> torch.nn.Module:
        """What to call for a forward pass."""
        ...

    def setup(self, model: torch.nn.Module, train: TrainSpec, world: World, probe: Probe) -> None:
        """Move the model to its device, wrap it and build the optimizer."""
        ...

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """Add the gradient of ``loss``; after the last micro batch gradients are averaged over the workers."""
        ...

    def step(self, learning_rate: float) -> None:
        """Clip, update the weights with this rate, and clear the gradients."""
        ...

    def save(self, folder: Path) -> None:
        """Write this worker's part of a checkpoint: weights and optimizer state."""
        ...

    def load(self, folder: Path) -> None:
        """Restore from a folder with all workers' parts."""
        ...

    def full_state_dict(self) -> dict[str, torch.Tensor] | None:
        """The weights on the CPU under the names of the unwrapped model, on worker 0; None on the others."""
        ...
