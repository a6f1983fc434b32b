"""Layers that hold one rank's share of a matrix, under the names and in the layout of the layers they replace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from fastserve_ray.training.tensor.collectives import enter, gather_last, sum_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch.distributed as dist

    from fastserve_ray.training.tensor.dropout import HeadDropout


class CutLinear(nn.Module):
    """A linear layer with this rank's share of the weight.

    Args:
        weight: (outputs, inputs), or (inputs, outputs) where transposed.
        bias: (outputs,) or None.
        is_transposed: GPT-2's layout.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, *, is_transposed: bool) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self._is_transposed = is_transposed

    def _product(self, inputs: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """With the weight itself and no view of it: a view that waits for the backward pass would keep alive what
        ZeRO-3 lets go of after the forward pass."""
        if not self._is_transposed:
            return functional.linear(inputs, self.weight, bias)
        if bias is None:
            return torch.matmul(inputs, self.weight)
        return torch.addmm(bias, inputs.flatten(0, -2), self.weight).unflatten(0, inputs.shape[:-1])


class ColumnParallel(CutLinear):
    """Some of the outputs: (..., inputs) to (..., outputs here). Activations come in through ``enter``, once for all
    layers that read them.

    Args:
        dropout: given where an attention layer's own heads begin.
        rows: the outputs to keep, where the weight is whole because key and value heads are fewer than ranks.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        *,
        is_transposed: bool,
        dropout: HeadDropout | None = None,
        rows: slice | None = None,
    ) -> None:
        super().__init__(weight, bias, is_transposed=is_transposed)
        self._dropout = dropout
        self._rows = rows

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self._product(inputs, self.bias)
        if self._rows is not None:
            outputs = outputs[..., self._rows]
        if self._dropout is not None and self.training:
            self._dropout.enter()
        return outputs


class RowParallel(CutLinear):
    """Some of the inputs: (..., inputs here) to (..., outputs), summed over the ranks; the bias is added once.

    Args:
        dropout: given where an attention layer's own heads end.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        *,
        is_transposed: bool,
        group: dist.ProcessGroup,
        dropout: HeadDropout | None = None,
    ) -> None:
        super().__init__(weight, bias, is_transposed=is_transposed)
        self._group = group
        self._dropout = dropout

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self._dropout is not None:
            self._dropout.leave()
        outputs = sum_over(self._product(inputs), self._group)
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)


class VocabularyHead(ColumnParallel):
    """Scores of some words, gathered: (..., inputs) to (..., vocabulary), the same on all ranks.

    Args:
        widths: words of each rank.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        *,
        widths: Sequence[int],
        group: dist.ProcessGroup,
    ) -> None:
        super().__init__(weight, bias, is_transposed=False)
        self._widths = widths
        self._group = group

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return gather_last(super().forward(enter(inputs, self._group)), self._widths, self._group)


class VocabularyEmbedding(nn.Module):
    """Some rows of an embedding; words of other ranks count as zeros in the sum.

    Args:
        weight: (words here, hidden).
        first: number of the first word here.
        padding_idx: word whose row gets no gradient, counted in the whole vocabulary.
        scale: factor of the outputs, of families that have one.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        *,
        first: int,
        padding_idx: int | None,
        scale: torch.Tensor | None,
        group: dist.ProcessGroup,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("embed_scale", scale, persistent=False)
        self._first = first
        is_here = padding_idx is not None and first <= padding_idx < first + weight.shape[0]
        self._padding_idx = padding_idx - first if padding_idx is not None and is_here else None
        self._group = group

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (...) of the whole vocabulary to (..., hidden)."""
        rows = ids - self._first
        is_elsewhere = (rows < 0) | (rows >= self.weight.shape[0])
        outputs = functional.embedding(rows.masked_fill(is_elsewhere, 0), self.weight, self._padding_idx)
        outputs = sum_over(outputs.masked_fill(is_elsewhere[..., None], 0), self._group)
        return outputs if self.embed_scale is None else outputs * self.embed_scale.to(outputs.dtype)
