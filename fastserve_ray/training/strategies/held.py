"""Bytes that a rank really holds, for the tables of memory and to check what ``plan`` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class HeldBytes:
    """Of one rank, wherever they lie; buffers for exchanges and activations are not in it."""

    parameters: int
    gradients: int
    """Between the last backward pass of a step and its update; 0 elsewhere."""
    master: int
    """fp32 copies of parameters that the optimizer changes in their place."""
    optimizer: int
    """The optimizer's moments."""


def plain_bytes(parameters: Sequence[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> HeldBytes:
    """Where the optimizer changes the module's own parameters."""
    return HeldBytes(_sum(parameters), _sum(parameter.grad for parameter in parameters), 0, _moments(optimizer))


def zero_bytes(engine: Any) -> HeldBytes:
    """Of a DeepSpeed engine. Gradients are the parameters' own as long as those are there, else the parts that the
    optimizer keeps; buffers of offloaded gradients in host memory are not counted."""
    parameters, optimizer = list(engine.module.parameters()), engine.optimizer
    is_split = engine.zero_optimization_stage() == 3
    parts = (group for group in optimizer.averaged_gradients.values() if group is not None)
    whole = _sum(parameter.grad for parameter in parameters)
    master = optimizer.fp32_partitioned_groups_flat if is_split else optimizer.single_partition_of_fp32_groups
    return HeldBytes(
        _sum((parameter.ds_tensor for parameter in parameters) if is_split else parameters),
        whole or sum(_sum(part) for part in parts),
        _sum(master),
        _moments(optimizer.optimizer),
    )


def _moments(optimizer: torch.optim.Optimizer) -> int:
    """Scalars such as the count of steps are left out."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return _sum(value for value in values if torch.is_tensor(value) and value.ndim > 0)


def _sum(tensors: Iterable[torch.Tensor | None]) -> int:
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
