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
    """Which blocks are free. Pure bookkeeping.

    Gives out the first run of free blocks that is long enough, because contiguous slots can be read in place; when
    there is none, any free blocks.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_free = num_blocks
        self._is_free: np.ndarray = np.ones(num_blocks, dtype=bool)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold ``num_tokens``."""
        return -(-num_tokens // self.block_size)

    def allocate(self, num_blocks: int) -> list[int] | None:
        """``num_blocks`` free blocks, or None (and nothing taken) when there are not so many."""
        if num_blocks > self.num_free:
            return None
        free = np.flatnonzero(self._is_free)
        # Ascending numbers form a run from i to j exactly when they differ by j - i.
        run_starts = np.flatnonzero(free[num_blocks - 1 :] - free[: len(free) - num_blocks + 1] == num_blocks - 1)
        begin = int(run_starts[0]) if len(run_starts) else 0
        taken: list[int] = free[begin : begin + num_blocks].tolist()
        self._is_free[taken] = False
        self.num_free -= num_blocks
        return taken

    def free(self, blocks: Sequence[int]) -> None:
        assert not self._is_free[blocks].any(), "a block was freed twice"
        self._is_free[blocks] = True
        self.num_free += len(blocks)

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
        self.bytes_per_token_and_layer = max(layer.bytes_per_token for layer in layers)
