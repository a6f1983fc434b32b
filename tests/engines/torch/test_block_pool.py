from __future__ import annotations

import random

import pytest

from fastserve_ray.engines.torch.block_pool import NO_PARENT, BlockPool, block_key


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


def keys(*names: str) -> list[bytes]:
    """Keys of blocks of one token each, one behind the other."""
    chain, parent = [], NO_PARENT
    for name in names:
        parent = block_key(parent, [ord(name)])
        chain.append(parent)
    return chain


def published(pool: BlockPool, *names: str) -> list[int]:
    blocks = pool.allocate(len(names))
    assert blocks is not None
    for block, key in zip(blocks, keys(*names), strict=True):
        pool.publish(block, key)
    return blocks


def test_keys_name_all_tokens_before() -> None:
    assert keys("a", "b")[0] == keys("a", "c")[0]
    assert keys("a", "b")[1] != keys("c", "b")[1]


def test_published_blocks_are_shared_and_kept() -> None:
    pool = BlockPool(4, 1)
    blocks = published(pool, "a", "b")
    assert pool.match(keys("a", "b", "c")) == blocks
    assert pool.num_used == 2
    assert all(pool.is_shared(block) for block in blocks)
    pool.free(blocks)
    pool.free(blocks)
    assert (pool.num_used, pool.num_free, pool.num_kept) == (0, 4, 2)
    assert pool.match(keys("a", "x")) == blocks[:1]
    assert (pool.num_used, pool.num_kept) == (1, 1)
    assert pool.match(keys("x", "b")) == []


def test_least_recently_used_are_forgotten_first_and_tails_before_heads() -> None:
    pool = BlockPool(5, 1)
    old, new = published(pool, "a", "b"), published(pool, "c", "d")
    pool.free(old)
    pool.free(new)
    pool.free(pool.match(keys("a")))
    assert pool.allocate(2) is not None  # the free one and b, which is older than c, d and a
    assert pool.match(keys("a", "b")) == old[:1]
    assert pool.match(keys("c", "d")) == new
    assert pool.allocate(1) is None
    assert pool.allocate(0) == []


def test_the_first_block_with_a_key_is_the_one_to_share() -> None:
    pool = BlockPool(4, 1)
    first, second = published(pool, "a"), published(pool, "a")
    assert pool.match(keys("a")) == first
    pool.free(second)
    assert pool.num_kept == 0
    assert pool.num_free == 3


def test_a_claim_leaves_room_to_grow_in_place() -> None:
    pool = BlockPool(12, 4)
    first, second = pool.allocate(1, claim=3), pool.allocate(2, claim=2)
    assert (first, second) == ([0], [4, 5])
    assert pool.claimed_after(0) == range(1, 4)
    assert pool.allocate(1, after=0) == [1]
    assert pool.allocate(4) == [8, 9, 10, 11]
    assert pool.allocate(2) == [2, 3]  # nothing else is free
    assert pool.allocate(1, after=5) == [6]
    pool.unclaim(pool.claimed_after(6))
    assert pool.allocate(1, claim=1) == [7]
    assert pool.num_free == 0
