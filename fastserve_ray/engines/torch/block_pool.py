"""Which blocks of a pool are free, shared or kept for later. Pure bookkeeping.

A block is in use while sequences refer to it. One that is full can be published under a key that names its tokens
and all before them; it may then be shared, and stays when nobody uses it any more, until its place is needed: least
recently used first (automatic prefix caching, as in vLLM).
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BlockKey: TypeAlias = bytes
KEY_BYTES = 16
"""Of a cryptographic hash: nobody can make two prompts that share a block by accident or by design."""
NO_PARENT: BlockKey = b""


def block_key(parent: BlockKey, token_ids: Sequence[int]) -> BlockKey:
    """The key of a full block: of its tokens, and through ``parent`` of all tokens before."""
    return blake2b(parent + np.asarray(token_ids, dtype=np.int64).tobytes(), digest_size=KEY_BYTES).digest()


class BlockPool:
    """Gives out blocks by number, with reference counts.

    Blocks that follow one another can be read in place, so a sequence gets the first run that is long enough and may
    claim more behind it to grow into. A claim is a wish: others take such blocks only when nothing else is free.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._refs = [0] * num_blocks
        self._is_free: np.ndarray = np.ones(num_blocks, dtype=bool)
        """Neither in use nor kept."""
        self._is_claimed: np.ndarray = np.zeros(num_blocks, dtype=bool)
        self._num_free = num_blocks
        self._kept: OrderedDict[int, None] = OrderedDict()
        """Published and used by nobody, least recently used first."""
        self._block_of: dict[BlockKey, int] = {}
        self._key_of: dict[int, BlockKey] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be had: free ones and kept ones."""
        return self._num_free + len(self._kept)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold ``num_tokens``."""
        return -(-num_tokens // self.block_size)

    def allocate(self, num_blocks: int, *, claim: int = 0, after: int | None = None) -> list[int] | None:
        """``num_blocks`` blocks with one reference each, or None (and nothing taken) when there are not so many.

        Args:
            claim: further blocks that the sequence may come to need.
            after: the sequence's last block, to go on right behind it if that is free.
        """
        if num_blocks > self.num_free:
            return None
        while num_blocks > self._num_free:
            self._forget(next(iter(self._kept)))
        taken = self._place(num_blocks, claim, after)
        self._is_free[taken] = False
        self._is_claimed[taken] = False
        for block in taken:
            self._refs[block] = 1
        self._num_free -= num_blocks
        return taken

    def share(self, blocks: Sequence[int]) -> None:
        """One more reference to each of ``blocks``, which are in use."""
        for block in blocks:
            self._refs[block] += 1

    def is_shared(self, block: int) -> bool:
        return self._refs[block] > 1

    def free(self, blocks: Sequence[int]) -> None:
        """Drop one reference to each block of a sequence, given in the sequence's order.

        Kept are published ones; the last of a sequence are forgotten first, since those before serve more prompts.
        """
        for block in reversed(blocks):
            assert self._refs[block] > 0, "a block was freed twice"
            self._refs[block] -= 1
            if self._refs[block] > 0:
                continue
            if block in self._key_of:
                self._kept[block] = None
            else:
                self._release(block)

    def claimed_after(self, block: int) -> range:
        """The run of claimed blocks right behind ``block``."""
        end = block + 1
        while end < self.num_blocks and self._is_claimed[end]:
            end += 1
        return range(block + 1, end)

    def unclaim(self, blocks: range) -> None:
        """Give up a claim. Where others have claimed its blocks since, they lose a wish, no block."""
        self._is_claimed[blocks.start : blocks.stop] = False

    def publish(self, block: int, key: BlockKey) -> None:
        """The block, in use and full, holds what ``key`` names. The first block with a key stays the one to share."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def match(self, keys: Iterable[BlockKey]) -> list[int]:
        """The blocks of the longest prefix of ``keys`` that the pool has, with a reference to each taken."""
        found: list[int] = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            self._kept.pop(block, None)
            self._refs[block] += 1
            found.append(block)
        return found

    def slots(self, blocks: Sequence[int]) -> np.ndarray:
        """(len(blocks) * block_size,) int64: the slot of every position."""
        starts = np.asarray(blocks, dtype=np.int64)[:, None] * self.block_size
        slots: np.ndarray = (starts + np.arange(self.block_size, dtype=np.int64)).reshape(-1)
        return slots

    def _place(self, num_blocks: int, claim: int, after: int | None) -> list[int]:
        """Numbers of free blocks, the best run that there is."""
        if after is not None:
            run = range(after + 1, after + 1 + num_blocks)
            if run.stop <= self.num_blocks and self._is_free[run.start : run.stop].all():
                return list(run)
        unclaimed = np.flatnonzero(self._is_free & ~self._is_claimed)
        begin = _first_run(unclaimed, num_blocks + claim)
        if begin is not None:
            self._is_claimed[unclaimed[begin + num_blocks : begin + num_blocks + claim]] = True
        elif len(unclaimed) >= num_blocks:
            begin = _first_run(unclaimed, num_blocks)
        else:
            unclaimed = np.flatnonzero(self._is_free)
            begin = _first_run(unclaimed, num_blocks)
        start = 0 if begin is None else begin
        taken: list[int] = unclaimed[start : start + num_blocks].tolist()
        return taken

    def _forget(self, block: int) -> None:
        """A kept block becomes free."""
        del self._kept[block]
        del self._block_of[self._key_of.pop(block)]
        self._release(block)

    def _release(self, block: int) -> None:
        self._is_free[block] = True
        self._num_free += 1


def _first_run(numbers: np.ndarray, length: int) -> int | None:
    """Where ``length`` ascending ``numbers`` without a gap begin."""
    if length > len(numbers):
        return None
    # Ascending numbers form a run from i to j exactly when they differ by j - i.
    starts = np.flatnonzero(numbers[length - 1 :] - numbers[: len(numbers) - length + 1] == length - 1)
    return int(starts[0]) if len(starts) else None
