"""The norm of a gradient whose parts lie on several ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from fastserve_ray.training.tensor.shards import Shards


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, shards: Shards) -> None:
    """Scale the gradients so that their norm over all ranks of the tensor group is at most ``max_norm``. Parameters
    that all ranks hold count once."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = _norm(parameter for parameter in trained if not is_cut(parameter)).to(trained[0].device)
    if shards.group is not None:
        squares = _norm(parameter for parameter in trained if is_cut(parameter)).square()
        dist.all_reduce(squares, group=shards.group)
        norm = (norm.square() + squares).sqrt()
    clip_grads_with_norm_(trained, max_norm, norm)


def is_cut(parameter: nn.Parameter) -> bool:
    """Whether every rank of a tensor group holds another part of it."""
    return getattr(parameter, "tensor_model_parallel", False)


def _norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return get_total_norm(gradients) if gradients else torch.zeros(())
