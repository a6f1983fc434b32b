"""The paged KV cache: fixed pools of slots, given out in blocks.

One slot holds the key and value of one token in one layer. Paging (Kwon et al. 2023, arXiv 2309.06180) keeps the
pool free of fragmentation at the price of a gather in attention. The number of blocks is the hard cap on memory:
nothing here ever grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_SIZE = 16
"""Tokens in a block; smaller wastes less of the last block, larger makes shorter tables."""


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


class BlockPool:
    """Which blocks are free. Pure bookkeeping, O(1) per block."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold ``num_tokens``."""
        return -(-num_tokens // self.block_size)

    def allocate(self, num_blocks: int) -> list[int] | None:
        """``num_blocks`` free blocks, or None (and nothing taken) when there are not so many."""
        if num_blocks > len(self._free):
            return None
        cut = len(self._free) - num_blocks
        taken = self._free[cut:]
        del self._free[cut:]
        return taken

    def free(self, blocks: Sequence[int]) -> None:
        self._free.extend(blocks)
        assert len(self._free) <= self.num_blocks, "a block was freed twice"

    def slots(self, blocks: Sequence[int]) -> np.ndarray:
        """(len(blocks) * block_size,) int64: the slot of every position."""
        starts = np.asarray(blocks, dtype=np.int64)[:, None] * self.block_size
        slots: np.ndarray = (starts + np.arange(self.block_size, dtype=np.int64)).reshape(-1)
        return slots


class KvCache:
    """The tensors: per layer, keys (slots, kv heads, key dim) and values (slots, kv heads, value dim).

    Not cleared when freed: attention never reads a slot that its sequence has not written.
    """

    def __init__(self, layers: Sequence[LayerShape], num_slots: int, device: torch.device) -> None:
        def pool(layer: LayerShape, dim: int) -> torch.Tensor:
            return torch.empty((num_slots, layer.num_kv_heads, dim), dtype=layer.dtype, device=device)

        self.keys = [pool(layer, layer.key_dim) for layer in layers]
        self.values = [pool(layer, layer.value_dim) for layer in layers]
