"""DistributedDataParallel: whole weights on every worker, gradients averaged (Li et al. 2020, arXiv 2006.15704)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch.nn.parallel import DistributedDataParallel

from fastserve_ray.spec import TrainSpec
from fastserve_ray.training.strategies.single import SingleStrategy
from fastserve_ray.training.world import World


class DdpStrategy(SingleStrategy):
    """Gradients are exchanged in the backward pass of the last micro batch only."""

    def setup(self, model: torch.nn.Module, train: TrainSpec, world: World) -> None:
        super().setup(model, train, world)
        devices = [torch.device(world.device)] if world.device.startswith("cuda") else None
        self._wrapped = DistributedDataParallel(
            self.module, device_ids=devices, find_unused_parameters=_has_unused_head(self.module)
        )

    @property
    def model(self) -> torch.nn.Module:
        return self._wrapped

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        with nullcontext() if is_last else self._wrapped.no_sync():
            loss.backward()


def _has_unused_head(model: torch.nn.Module) -> bool:
    """Whether some weights take no part in the loss; only then is DDP's search for them worth its time.

    A BERT pooler without a classifier behind it is the known case.
    """
    return any(name.endswith("pooler.dense.weight") for name, _ in model.named_parameters()) and not hasattr(
        model, "classifier"
    )
