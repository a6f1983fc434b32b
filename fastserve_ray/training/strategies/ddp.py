"""DistributedDataParallel: whole weights on every worker, gradients averaged (Li et al. 2020, arXiv 2006.15704)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch.nn.parallel import DistributedDataParallel

from fastserve_ray.training.strategies.single import SingleStrategy

if TYPE_CHECKING:
    from fastserve_ray.spec import TrainSpec
    from fastserve_ray.training.strategies.protocol import Probe
    from fastserve_ray.training.world import World


class DdpStrategy(SingleStrategy):
    """Gradients are exchanged in the backward pass of the last micro batch only."""

    def setup(self, model: torch.nn.Module, train: TrainSpec, world: World, probe: Probe) -> None:
        super().setup(model, train, world, probe)
        devices = [torch.device(world.device)] if world.device.startswith("cuda") else None
        self._wrapped = DistributedDataParallel(
            self.module, device_ids=devices, find_unused_parameters=_has_unused(self.module, probe)
        )

    @property
    def model(self) -> torch.nn.Module:
        return self._wrapped

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        with nullcontext() if is_last else self._wrapped.no_sync():
            loss.backward()


def _has_unused(model: torch.nn.Module, probe: Probe) -> bool:
    """Whether some weights take no part in the loss (a BERT pooler without a classifier behind it); only then is
    DDP's search for them in every step worth its time."""
    model.train()
    probe().backward()
    is_unused = any(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    model.zero_grad(set_to_none=True)
    return is_unused
