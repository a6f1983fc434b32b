"""One worker, no process group."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from fastserve_ray.training.precision import autocast
from fastserve_ray.training.strategies.optimizer import make_adamw, set_learning_rate
from fastserve_ray.training.strategies.passes import Passes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from fastserve_ray.spec import TrainSpec
    from fastserve_ray.training.strategies.protocol import Batch, MicroBatch, Objective, Sums
    from fastserve_ray.training.world import World

STATE_FILE = "state.pt"


class SingleStrategy:
    """Plain PyTorch; the base of the strategies whose optimizer is plain PyTorch's."""

    def setup(
        self, model: torch.nn.Module, train: TrainSpec, world: World, objective: Objective, sample: Batch
    ) -> None:
        self.module = model.to(world.device)
        self._world = world
        self._max_grad_norm = float(train.max_grad_norm)
        self._optimizer = make_adamw(self.module, train)
        self._passes = Passes(objective, lambda: autocast(train.precision, world.device))
        self._model = self._wrapped(sample)

    def _wrapped(self, sample: Batch) -> torch.nn.Module:
        """What is called in a forward pass."""
        return self.module

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> float:
        self.module.train()
        scale = float(self._world.data_size)  # an exchange takes the mean, and the loss is a sum
        own_loss = self._passes.train(self._model, micro_batches, self._backward, scale)
        self._clip()
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return own_loss

    def _backward(self, loss: torch.Tensor, is_last: bool) -> None:
        with self._exchange(is_last):
            loss.backward()

    def _exchange(self, is_last: bool) -> AbstractContextManager[None]:
        """Around a backward pass; after the last one of a step gradients are the mean over the workers."""
        return nullcontext()

    def _clip(self) -> None:
        if self._max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._max_grad_norm)

    def evaluate(self, micro_batches: Iterable[MicroBatch]) -> Sums:
        self.module.eval()
        return self._passes.evaluate(self._model, micro_batches)

    def save(self, folder: Path) -> None:
        if self._world.is_first:
            state = {"model": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}
            torch.save(state, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        state = torch.load(folder / STATE_FILE, map_location=self._world.device, weights_only=True)
        self.module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def full_state_dict(self) -> dict[str, torch.Tensor] | None:
        if not self._world.is_first:
            return None
        return {name: tensor.detach().cpu() for name, tensor in self.module.state_dict().items()}
