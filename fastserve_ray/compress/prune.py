"""Magnitude pruning (Han et al. 2015, arXiv 1506.02626): the smallest weights become zero.

The matrices stay dense: zeros save neither memory nor time in a dense kernel. What pruning gives is a model that
compresses well and that a later, structured step can cut; the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from fastserve_ray.errors import CompressionError
from fastserve_ray.models.layers import linear_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.spec import PruneStep


@dataclass(frozen=True)
class PruneResult:
    """What became zero."""

    sparsity_by_layer: dict[str, float]
    """Zeros over all weights of each matrix."""

    @property
    def num_layers(self) -> int:
        return len(self.sparsity_by_layer)


def prune_model(model: nn.Module, step: PruneStep) -> PruneResult:
    """Prune the linear layers in place.

    Raises:
        CompressionError: neither or both of sparsity and threshold are given, or there is nothing to prune.
    """
    if (step.sparsity is None) == (step.threshold is None):
        raise CompressionError(
            "pruning needs a goal",
            allowed="either sparsity or threshold",
            key="compress.sparsity or compress.threshold",
        )
    weights = {name: layer.get_parameter("weight") for name, layer in linear_layers(model, step.exclude)}
    if not weights:
        raise CompressionError(
            "the model has no linear layer in floating point to prune",
            value=type(model).__name__,
            key="compress",
            hint="prune before quantize",
        )
    with torch.no_grad():
        if step.threshold is not None:
            _prune_below(list(weights.values()), step.threshold)
        elif step.scope == "global":
            _prune_smallest_of_all(list(weights.values()), step.sparsity or 0.0)
        else:
            for weight in weights.values():
                _prune_smallest(weight, step.sparsity or 0.0)
    return PruneResult({name: float((weight == 0).double().mean()) for name, weight in weights.items()})


def _prune_below(weights: Sequence[torch.Tensor], threshold: float) -> None:
    for weight in weights:
        weight.masked_fill_(weight.abs() < threshold, 0.0)


def _prune_smallest(weight: torch.Tensor, sparsity: float) -> None:
    """Exactly ``round(sparsity * size)`` entries become zero, ties by position."""
    count = round(sparsity * weight.numel())
    if count:
        smallest = weight.abs().flatten().topk(count, largest=False).indices
        weight.view(-1)[smallest] = 0.0


def _prune_smallest_of_all(weights: Sequence[torch.Tensor], sparsity: float) -> None:
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights])
    smallest = magnitudes.topk(round(sparsity * magnitudes.numel()), largest=False).indices
    keep = torch.ones_like(magnitudes)
    keep[smallest] = 0.0
    for weight, mask in zip(weights, keep.split([weight.numel() for weight in weights]), strict=True):
        weight.mul_(mask.view_as(weight))
