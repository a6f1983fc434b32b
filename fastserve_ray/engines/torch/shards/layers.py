"""Layers that hold one rank's share of a matrix. Column-parallel ones need no class: they are smaller linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from fastserve_ray.engines.torch.shards.collectives import Collectives


class RowParallel(nn.Module):
    """A linear layer over some of the inputs, summed over the ranks; the bias, which all hold, is added once.

    Args:
        product: (..., inputs here) to (..., outputs), without a bias.
        bias: (outputs,) or None.
    """

    def __init__(self, product: nn.Module, bias: torch.Tensor | None, collectives: Collectives) -> None:
        super().__init__()
        self.product = product
        self.register_buffer("bias", bias)
        self._collectives = collectives

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self._collectives.sum(self.product(inputs).contiguous())
        return outputs if self.bias is None else outputs + self.bias


class VocabularyEmbedding(nn.Module):
    """Some rows of an embedding; tokens of other ranks count as zeros in the sum.

    Args:
        embedding: the family's own module (some scale), with the rows [first, last) as weight.
    """

    def __init__(self, embedding: nn.Module, first: int, last: int, collectives: Collectives) -> None:
        super().__init__()
        self.embedding = embedding
        self._first = first
        self._num_rows = last - first
        self._collectives = collectives

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (...) of the whole vocabulary to (..., hidden)."""
        rows = ids - self._first
        is_elsewhere = (rows < 0) | (rows >= self._num_rows)
        outputs = self.embedding(rows.masked_fill(is_elsewhere, 0))
        return self._collectives.sum(outputs.masked_fill(is_elsewhere[..., None], 0))


class VocabularyHead(nn.Module):
    """Some rows of the output embedding: rank 0 returns the whole vocabulary's logits, the others their own.

    Args:
        head: (..., hidden) to (..., tokens here).
        widths: tokens of every rank.
    """

    def __init__(self, head: nn.Module, widths: Sequence[int], collectives: Collectives) -> None:
        super().__init__()
        self.head = head
        self._widths = widths
        self._collectives = collectives

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._collectives.concatenate(self.head(hidden), self._widths)
