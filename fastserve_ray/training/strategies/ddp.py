"""DistributedDataParallel: whole weights on every worker, gradients averaged (Li et al. 2020, arXiv 2006.15704)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from fastserve_ray.training.strategies.single import SingleStrategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.training.strategies.protocol import Batch, MicroBatch
    from fastserve_ray.training.world import Group


class DdpStrategy(SingleStrategy):
    """Gradients are exchanged in the backward pass of the last micro batch only.

    For ``train.balance: measured`` a hook notes when the last of them is ready: what comes after is waiting.
    """

    computing_seconds = 0.0
    _started = 0.0

    def _wrapped(self, sample: Batch) -> torch.nn.Module:
        device = torch.device(self._world.device)
        self._ddp = DistributedDataParallel(
            self.module,
            device_ids=[device] if device.type == "cuda" else None,
            process_group=self._world.data_group,
            find_unused_parameters=self._has_unused(sample),
            forward_sync_buffers=_has_statistics(self.module),
        )
        if self._is_measured:
            # a lambda: DDP compares annotations of a hook with types, and here they are texts
            self._ddp.register_comm_hook(
                self._world.data_group,
                lambda group, bucket: self._timed_exchange(group, bucket),  # noqa: PLW0108
            )
        return self._ddp

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> float:
        self._started = perf_counter()
        return super().train_step(micro_batches, learning_rate)

    def _timed_exchange(self, group: Group, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        if bucket.is_last():
            if self._world.device.startswith("cuda"):
                torch.cuda.current_stream().synchronize()
            self.computing_seconds = perf_counter() - self._started
        return allreduce_hook(group, bucket)

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


def _has_statistics(module: torch.nn.Module) -> bool:
    """Whether buffers change in training (batch norm's). Others are constants, and a broadcast of them in every forward
    pass would make fast workers wait where their speed is measured."""
    return any(isinstance(part, torch.nn.modules.batchnorm._NormBase) for part in module.modules())
