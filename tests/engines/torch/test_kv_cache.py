from __future__ import annotations

import random

import pytest

from fastserve_ray.engines.torch.kv_cache import BlockPool


def test_blocks_are_never_given_twice() -> None:
    pool = BlockPool(32, 4)
    draw = random.Random(0)
    held: list[list[int]] = []
    for _ in range(2000):
        if held and draw.random() < 0.5:
            pool.free(held.pop(draw.randrange(len(held))))
        else:
            wanted = draw.randint(1, 8)
            blocks = pool.allocate(wanted)
            assert (blocks is None) == (wanted > 32 - sum(map(len, held)))
            held += [blocks] if blocks is not None else []
        used = [block for blocks in held for block in blocks]
        assert len(used) == len(set(used)) == pool.num_used
        assert set(used) <= set(range(32))


def test_contiguous_when_possible() -> None:
    pool = BlockPool(10, 4)
    first, second, third = pool.allocate(3), pool.allocate(2), pool.allocate(3)
    assert (first, second, third) == ([0, 1, 2], [3, 4], [5, 6, 7])
    pool.free([3, 4])
    assert pool.allocate(2) == [3, 4]
    pool.free([0, 3])
    assert pool.allocate(2) == [8, 9]
    assert pool.allocate(2) == [0, 3]
    assert pool.allocate(1) is None


def test_slots_follow_blocks() -> None:
    assert BlockPool(4, 3).slots([2, 0]).tolist() == [6, 7, 8, 0, 1, 2]


def test_freeing_twice_is_our_bug() -> None:
    pool = BlockPool(2, 4)
    blocks = pool.allocate(1)
    assert blocks is not None
    pool.free(blocks)
    with pytest.raises(AssertionError, match="freed twice"):
        pool.free(blocks)
