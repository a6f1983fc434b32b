"""Who holds what: every row and column once, key and value heads at least once; the rest is refused."""

from __future__ import annotations

import pytest

from fastserve_ray.models.cuts import (
    COLUMNS,
    ENCODER_PLANS,
    HEADS_OUT,
    KV_HEADS_OUT,
    PLANS,
    QKV_OUT,
    Share,
    find_cut,
    possible_shards,
)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 6])
def test_heads_and_columns_are_shared_out_without_rest(num_shards: int) -> None:
    shares = [Share(rank, num_shards, 6, 6) for rank in range(num_shards)]
    for cut, size in ((HEADS_OUT, 48), (KV_HEADS_OUT, 48), (COLUMNS, 50)):
        kept = [at for share in shares for first, last in share.ranges(cut, size) for at in range(first, last)]
        assert kept == list(range(size))


def test_uneven_columns_differ_by_one_at_most() -> None:
    sizes = [last - first for rank in range(4) for first, last in Share(rank, 4, 4, 4).ranges(COLUMNS, 51)]
    assert sum(sizes) == 51
    assert max(sizes) - min(sizes) == 1


def test_few_kv_heads_are_held_by_several_ranks() -> None:
    """8 heads over 2 key and value heads: ranks 0 and 1 hold the first, which their query heads belong to."""
    ranges = [Share(rank, 4, 8, 2).ranges(KV_HEADS_OUT, 32) for rank in range(4)]
    assert ranges == [[(0, 16)], [(0, 16)], [(16, 32)], [(16, 32)]]
    assert Share(0, 4, 8, 2).kv_heads_here == 1
    assert Share(0, 4, 8, 2).heads_here == 2


@pytest.mark.parametrize("num_shards", [2, 4])
def test_every_query_head_finds_its_kv_head(num_shards: int) -> None:
    for rank in range(num_shards):
        share = Share(rank, num_shards, 8, 2)
        group = share.num_heads // share.num_kv_heads
        first_kv = share.bounds("kv_heads", 2)[0]
        for local in range(share.heads_here):
            head = rank * share.heads_here + local
            assert first_kv + local // (share.heads_here // share.kv_heads_here) == head // group


def test_queries_keys_and_values_in_one_matrix() -> None:
    """4 heads over 2 of 8 numbers each: 32 query rows, then 16 key rows, then 16 value rows."""
    assert Share(0, 2, 4, 2).ranges(QKV_OUT, 64) == [(0, 16), (32, 40), (48, 56)]
    assert Share(1, 2, 4, 2).ranges(QKV_OUT, 64) == [(16, 32), (40, 48), (56, 64)]


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "possible"),
    [(4, 4, [1, 2, 4]), (14, 2, [1, 2, 14]), (4, 2, [1, 2, 4]), (12, 3, [1, 3, 6, 12]), (8, 1, [1, 2, 4, 8])],
)
def test_heads_are_shared_out_evenly_or_not_at_all(num_heads: int, num_kv_heads: int, possible: list[int]) -> None:
    assert possible_shards(num_heads, num_kv_heads) == possible


@pytest.mark.parametrize(
    ("family", "name", "is_cut"),
    [
        ("llama", "model.layers.11.mlp.down_proj", True),
        ("llama", "model.layers.11.input_layernorm", False),
        ("llama", "lm_head", False),
        ("gpt2", "transformer.h.0.attn.c_attn", True),
        ("gpt2", "h.0.attn.c_attn", True),
        ("gpt2", "transformer.wpe", False),
        ("bert", "bert.encoder.layer.1.attention.output.dense", True),
        ("bert", "bert.pooler.dense", False),
        ("opt", "model.decoder.layers.3.fc1", True),
    ],
)
def test_modules_of_a_block_are_found_by_name(family: str, name: str, is_cut: bool) -> None:
    plans = PLANS | ENCODER_PLANS
    assert (find_cut(plans[family], name) is not None) == is_cut
