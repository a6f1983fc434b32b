"""Blocks between the device's cache and the host's, on real tensors."""

from __future__ import annotations

import pytest
import torch

from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE, KvCache, KvOps, LayerShape
from fastserve_ray.engines.torch.swap import Swapper

LAYERS = [LayerShape(2, 3, 4, torch.float32), LayerShape(1, 3, 3, torch.bfloat16)]


def filled(num_blocks: int) -> KvCache:
    """Every token of block b is b, in keys, and -b in values."""
    cache = KvCache(LAYERS, num_blocks * BLOCK_SIZE, torch.device("cpu"))
    for block in range(num_blocks):
        write(cache, block, block)
    return cache


def write(cache: KvCache, block: int, value: int) -> None:
    for keys, values in zip(cache.keys, cache.values, strict=True):
        keys[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] = value
        values[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] = -value


def contents(cache: KvCache) -> list[int]:
    """What the blocks hold; fails when a block is not all of one value."""
    found = []
    for block in range(len(cache.keys[0]) // BLOCK_SIZE):
        values = {
            sign * float(value)
            for sign, pools in ((1, cache.keys), (-1, cache.values))
            for pool in pools
            for value in pool[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE].flatten()
        }
        assert len(values) == 1
        found.append(int(values.pop()))
    return found


def test_blocks_are_copied_inside_a_cache() -> None:
    cache = filled(6)
    cache.copy_blocks([(0, 3), (1, 4), (5, 2)])
    assert contents(cache) == [0, 1, 5, 0, 1, 5]


def test_out_and_back_in() -> None:
    cache = filled(6)
    swapper = Swapper(cache, LAYERS, 3 * BLOCK_SIZE)
    swapper.begin(KvOps(swap_out=[(4, 0), (5, 1), (1, 2)]))
    swapper.join()
    for block in range(6):
        write(cache, block, 9)
    swapper.begin(KvOps(swap_in=[(0, 2), (2, 5)]))
    swapper.join()
    assert contents(cache) == [9, 9, 4, 9, 9, 1]
    assert swapper.seconds_waited > 0
    swapper.close()


def test_one_at_a_time_and_join_without_any() -> None:
    swapper = Swapper(filled(2), LAYERS, BLOCK_SIZE)
    swapper.join()
    swapper.begin(KvOps())
    swapper.begin(KvOps(swap_out=[(0, 0)]))
    with pytest.raises(AssertionError, match="joined before"):
        swapper.begin(KvOps(swap_out=[(1, 0)]))
    swapper.close()
