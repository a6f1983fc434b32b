"""One worker, no process group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fastserve_ray.training.strategies.optimizer import make_adamw, set_learning_rate

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.spec import TrainSpec
    from fastserve_ray.training.strategies.protocol import Probe
    from fastserve_ray.training.world import World

STATE_FILE = "state.pt"


class SingleStrategy:
    """Plain PyTorch; the base of the strategies that keep whole weights on every worker."""

    def __init__(self) -> None:
        self._module: torch.nn.Module | None = None

    @property
    def model(self) -> torch.nn.Module:
        return self.module

    @property
    def module(self) -> torch.nn.Module:
        """The model as it was given."""
        assert self._module is not None, "setup comes first"
        return self._module

    def setup(self, model: torch.nn.Module, train: TrainSpec, world: World, probe: Probe) -> None:
        self._module = model.to(world.device)
        self._world = world
        self._max_grad_norm = float(train.max_grad_norm)
        self._optimizer = make_adamw(self._module, train)

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> None:
        if self._max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._max_grad_norm)
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

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
