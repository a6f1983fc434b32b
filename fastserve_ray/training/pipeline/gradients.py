"""Gradients over the ranks: of the data parallel workers, of tied weights, and their norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.nn.utils import clip_grads_with_norm_

from fastserve_ray.training.tensor.norm import squared_norm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastserve_ray.training.tensor.shards import Shards

BUCKET_ELEMENTS = 25_000_000 // 4
"""Gradients exchanged at once; 25 MB, as in DistributedDataParallel."""


def sum_gradients(parameters: Sequence[torch.nn.Parameter], group: dist.ProcessGroup | None) -> None:
    """Add up the gradients over the group, which holds the same parameters on every rank."""
    if group is None:
        return
    for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat, group=group)
        for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def clip_gradients(
    parameters: Sequence[torch.nn.Parameter],
    copies: Sequence[torch.nn.Parameter],
    max_norm: float,
    group: dist.ProcessGroup,
    shards: Shards,
) -> None:
    """Scale the gradients of all stages so that their common norm is at most ``max_norm``; 0 turns it off.

    Args:
        copies: parameters that another stage counts.
        group: the stages.
        shards: how the layers of each stage are cut.
    """
    if max_norm <= 0:
        return
    left_out = {id(parameter) for parameter in copies}
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    counted = [parameter for parameter in trained if id(parameter) not in left_out]
    squares = squared_norm(counted, shards, parameters[0].device)
    dist.all_reduce(squares, group=group)
    clip_grads_with_norm_(trained, max_norm, squares.sqrt().float())


class TiedWeights:
    """Weights that the first and the last stage both hold, embedding and head. Each adds its part of the gradient, and
    the same optimizer turns equal gradients into equal weights.

    Args:
        parameters: in the same order on both; empty on the stages between.
        group: the stages of the pipeline.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], group: dist.ProcessGroup, *, is_first: bool) -> None:
        self._parameters = list(parameters)
        self._group = group
        ranks: list[int] = dist.get_process_group_ranks(group)
        self._other = ranks[-1] if is_first else ranks[0]
        self.copies = [] if is_first else self._parameters
        """Those that the other stage counts in the norm."""

    def sum_gradients(self) -> None:
        """On the first and the last stage together; the gradients are equal afterwards to the bit."""
        for parameter in self._parameters:
            if not parameter.requires_grad:
                continue
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            other = torch.empty_like(own)
            operations = [
                dist.P2POp(dist.isend, own, self._other, self._group),
                dist.P2POp(dist.irecv, other, self._other, self._group),
            ]
            for work in dist.batch_isend_irecv(operations):
                work.wait()
            parameter.grad = own + other


def _buckets(gradients: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for gradient in gradients:
        if bucket and sum(other.numel() for other in bucket) + gradient.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
