"""The tensors of the paged KV cache: fixed pools of slots, given out in blocks by `block_pool.BlockPool`.

One slot holds the key and value of one token in one layer. Paging (Kwon et al. 2023, arXiv 2309.06180) keeps the
pool free of fragmentation at the price of a gather in attention. The number of blocks is the hard cap on memory:
nothing here ever grows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_SIZE = 16
"""Tokens in a block; smaller wastes less of the last block, larger makes shorter tables."""

BlockMoves = list[tuple[int, int]]
"""(from, to): block numbers."""


@dataclass(frozen=True)
class LayerShape:
    """What one attention layer stores for a token."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    sliding_window: int | None = None
    """Tokens that a query sees at most; None for all before it."""

    @property
    def bytes_per_token(self) -> int:
        return self.num_kv_heads * (self.key_dim + self.value_dim) * int(self.dtype.itemsize)


@dataclass(frozen=True)
class KvOps:
    """What a step does to the cache before it reads tokens."""

    copies: BlockMoves = field(default_factory=list)
    """On the device: shared blocks that a sequence is about to write to."""
    swap_out: BlockMoves = field(default_factory=list)
    """From the device to the host pool. The device blocks stay as they are until the next step."""
    swap_in: BlockMoves = field(default_factory=list)
    """From the host pool to the device. The device blocks are not read before the next step."""

    def __bool__(self) -> bool:
        return bool(self.copies or self.swap_out or self.swap_in)


class KvCache:
    """The tensors: per layer, keys (slots, kv heads, key dim) and values (slots, kv heads, value dim).

    Not cleared when freed: attention never reads a slot that its sequence has not written.

    Args:
        is_pinned: in memory that a GPU can copy from and to on its own.
        is_zeroed: begin with zeros, for kernels that load whole blocks and hide what was not written.
    """

    def __init__(
        self,
        layers: Sequence[LayerShape],
        num_slots: int,
        device: torch.device,
        *,
        is_pinned: bool = False,
        is_zeroed: bool = False,
    ) -> None:
        def pool(layer: LayerShape, dim: int) -> torch.Tensor:
            shape = (num_slots, layer.num_kv_heads, dim)
            tensor = torch.empty(shape, dtype=layer.dtype, device=device, pin_memory=is_pinned)
            return tensor.zero_() if is_zeroed else tensor

        self.keys = [pool(layer, layer.key_dim) for layer in layers]
        self.values = [pool(layer, layer.value_dim) for layer in layers]
        self.bytes_per_token_and_layer = max(layer.bytes_per_token for layer in layers)

    def copy_blocks(self, moves: BlockMoves) -> None:
        """Copy blocks inside this cache."""
        if moves:
            move_blocks(self, self, moves)


def move_blocks(source: KvCache, target: KvCache, moves: BlockMoves) -> None:
    """Copy blocks of every layer from ``source`` to ``target``; asynchronous where a GPU and pinned memory allow it."""
    for pools, target_pools in ((source.keys, target.keys), (source.values, target.values)):
        for pool, target_pool in zip(pools, target_pools, strict=True):
            for run in _runs(moves):
                first, to, length = run[0] * BLOCK_SIZE, run[1] * BLOCK_SIZE, run[2] * BLOCK_SIZE
                target_pool[to : to + length].copy_(pool[first : first + length], non_blocking=True)


def _runs(moves: BlockMoves) -> list[tuple[int, int, int]]:
    """(from, to, length) of blocks that lie side by side at both ends, so that one copy moves them."""
    runs: list[tuple[int, int, int]] = []
    for block, to in moves:
        if runs:
            first, first_to, length = runs[-1]
            if (block, to) == (first + length, first_to + length):
                runs[-1] = (first, first_to, length + 1)
                continue
        runs.append((block, to, 1))
    return runs
