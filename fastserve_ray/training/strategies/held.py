"""Bytes that a rank really holds, for the tables of memory and to check what ``plan`` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.training.strategies.disk_states import masters_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastserve_ray.training.strategies.disk_states import DiskStates


@dataclass(frozen=True)
class HeldBytes:
    """Of one rank, wherever they lie; buffers for exchanges and activations are not in it."""

    parameters: int
    gradients: int
    """From the backward passes of a step to its update; 0 elsewhere."""
    master: int
    """fp32 copies of parameters that the optimizer changes in their place."""
    optimizer: int
    """The optimizer's moments."""

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.master + self.optimizer


def plain_bytes(parameters: Iterable[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> HeldBytes:
    """Where the optimizer changes the parameters themselves."""
    held = list(parameters)
    return HeldBytes(_sum(held), _sum(parameter.grad for parameter in held), 0, _moments(optimizer))


def zero_bytes(engine: Any, disk: DiskStates | None = None) -> HeldBytes:
    """Of a DeepSpeed engine. Gradients are the parameters' own while those are there, else the parts that the
    optimizer keeps; buffers of offloaded gradients in host memory are not counted, nor what lies on ``disk``."""
    parameters, optimizer = list(engine.module.parameters()), engine.optimizer
    is_split = engine.zero_optimization_stage() == 3
    parts = (group for group in optimizer.averaged_gradients.values() if group is not None)
    exchanged = _exchange_buffers(optimizer)
    whole = _sum(
        parameter.grad
        for parameter in parameters
        if parameter.grad is not None and parameter.grad.untyped_storage().data_ptr() not in exchanged
    )
    master = [tensor for tensor in masters_of(engine) if disk is None or not disk.holds(tensor)]
    return HeldBytes(
        _sum((parameter.ds_tensor for parameter in parameters) if is_split else parameters),
        whole or sum(_sum(part) for part in parts),
        _sum(master),
        _moments(optimizer.optimizer, disk),
    )


def _exchange_buffers(optimizer: Any) -> set[int]:
    """Where the storages begin in which DeepSpeed sums gradients over the workers, and to which it points them."""
    buffers = (bucket.buffer for bucket in optimizer.ipg_buckets.values())
    tensors = (buffer if isinstance(buffer, list) else [buffer] for buffer in buffers)
    return {tensor.untyped_storage().data_ptr() for group in tensors for tensor in group if tensor is not None}


def _moments(optimizer: torch.optim.Optimizer, disk: DiskStates | None = None) -> int:
    """Scalars such as the count of steps are left out."""
    values = (value for state in optimizer.state.values() for value in state.values())
    found = [value for value in values if torch.is_tensor(value) and value.ndim > 0]
    return _sum(value for value in found if disk is None or not disk.holds(value))


def _sum(tensors: Iterable[torch.Tensor | None]) -> int:
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
