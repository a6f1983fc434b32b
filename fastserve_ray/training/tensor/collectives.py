"""Exchanges inside a tensor group that gradients flow through.

``enter`` and ``sum_over`` are f and g of Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053, figure 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Sequence


def enter(inputs: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Where activations that all ranks hold enter layers that are cut: nothing on the way forward, and a sum of the
    ranks' gradients on the way back."""
    if not torch.is_grad_enabled() or not inputs.requires_grad:
        return inputs
    return _apply(_Enter, inputs, group)


def sum_over(partial: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The sum of the ranks' tensors, which takes the place of ``partial``; its gradient goes to every rank whole."""
    return _apply(_Sum, partial, group)


def gather_last(part: torch.Tensor, widths: Sequence[int], group: dist.ProcessGroup) -> torch.Tensor:
    """The ranks' parts side by side along the last dimension, of ``widths``; each gets the gradient of its own part,
    which takes for granted that all ranks go on alike."""
    return _apply(_Gather, part, tuple(widths), group)


def gather_along(part: torch.Tensor, axis: int, widths: Sequence[int], group: dist.ProcessGroup) -> list[torch.Tensor]:
    """Every rank's part, which is ``widths[rank]`` wide along ``axis``. No gradient."""
    first = part.detach().movedim(axis, 0)
    padded = first.new_zeros(max(widths), *first.shape[1:])
    padded[: first.shape[0]] = first
    parts = [torch.empty_like(padded) for _ in widths]
    dist.all_gather(parts, padded, group=group)
    _give_up(padded)
    return [found[:width].movedim(0, axis) for found, width in zip(parts, widths, strict=True)]


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.mark_dirty(partial)
        dist.all_reduce(partial, group=group)
        return partial

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, widths: tuple[int, ...], group: dist.ProcessGroup) -> torch.Tensor:
        rank = dist.get_rank(group)
        ctx.first, ctx.width = sum(widths[:rank]), widths[rank]
        parts = gather_along(part, -1, widths, group)
        whole = torch.cat(parts, dim=-1)
        for each in parts:
            _give_up(each)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].narrow(-1, ctx.first, ctx.width).contiguous(), None, None


def _give_up(part: torch.Tensor) -> None:
    """Free the memory now: on a CPU a thread of gloo may hold what it has exchanged for some moments more, in which the
    loss needs the most."""
    if part.device.type == "cpu":
        part.untyped_storage().resize_(0)


def _apply(function: Any, *arguments: Any) -> torch.Tensor:
    outputs: torch.Tensor = function.apply(*arguments)
    return outputs
