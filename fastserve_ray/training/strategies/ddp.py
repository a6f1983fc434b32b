"""DistributedDataParallel: whole weights on every worker, gradients averaged (Li et al. 2020, arXiv 2006.15704)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch.nn.parallel import DistributedDataParallel

from fastserve_ray.training.strategies.single import SingleStrategy

if TYPE_CHECKING:
    from fastserve_ray.training.strategies.protocol import Batch


class DdpStrategy(SingleStrategy):
    """Gradients are exchanged in the backward pass of the last micro batch only."""

    def _wrapped(self, sample: Batch) -> torch.nn.Module:
        device = torch.device(self._world.device)
        self._ddp = DistributedDataParallel(
            self.module,
            device_ids=[device] if device.type == "cuda" else None,
            process_group=self._world.data_group,
            find_unused_parameters=self._has_unused(sample),
        )
        return self._ddp

    def _exchange(self, is_last: bool) -> AbstractContextManager[None]:
        return nullcontext() if is_last else self._ddp.no_sync()

    def _has_unused(self, sample: Batch) -> bool:
        """Whether some weights take no part in the loss (a BERT pooler without a classifier behind it); only then is
        DDP's search for them in every step worth its time."""
        self.module.train()
        self._passes.loss(self.module, sample).backward()
        is_unused = any(parameter.requires_grad and parameter.grad is None for parameter in self.module.parameters())
        self.module.zero_grad(set_to_none=True)
        return is_unused
