"""The norm of a gradient whose parts lie on several ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from fastserve_ray.training.tensor.shards import Shards


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, shards: Shards) -> None:
    """Scale the gradients so that their norm over all ranks of the tensor group is at most ``max_norm``. Parameters
    that all ranks hold count once."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    clip_grads_with_norm_(trained, max_norm, squared_norm(trained, shards, trained[0].device).sqrt().float())


def squared_norm(parameters: Sequence[nn.Parameter], shards: Shards, device: torch.device) -> torch.Tensor:
    """The square of the norm of their gradients over all ranks of the tensor group, in float64 on ``device``; see
    ``clip_gradients``."""
    squares = _squares(parameter for parameter in parameters if not is_cut(parameter)).to(device)
    if shards.group is not None:
        of_parts = _squares(parameter for parameter in parameters if is_cut(parameter)).to(device)
        dist.all_reduce(of_parts, group=shards.group)
        squares = squares + of_parts
    return squares


def is_cut(parameter: nn.Parameter) -> bool:
    """Whether every rank of a tensor group holds another part of it."""
    return getattr(parameter, "tensor_model_parallel", False)


def _squares(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm(gradients) if gradients else torch.zeros(())
    return norm.double().square()
