"""The fast paths of attention against plain attention, one sequence at a time."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
import torch

from fastserve_ray.engines.torch import ragged
from fastserve_ray.engines.torch.kv_cache import KvCache, LayerShape
from fastserve_ray.engines.torch.ragged import MAX_GROUP_PADDING, RaggedStep, Span, group_spans

HEADS, KV_HEADS, DIM = 4, 2, 8


def span(length: int, *, is_contiguous: bool = False) -> Span:
    return Span(0, length - 1, 1, np.arange(length), is_contiguous)


def test_groups_waste_little() -> None:
    spans = [span(length) for length in sorted([1, 2, 3, 300, 301, 302, 900, 901, 4000])]
    groups = group_spans(spans, None, min_len_in_place=10_000)
    assert [member for group in groups for member in group] == spans
    for group in groups:
        assert len(group) * group[-1].end - sum(member.end for member in group) <= MAX_GROUP_PADDING
    assert len(groups) == 4
    assert len(group_spans(spans, 16, min_len_in_place=10_000)) == 1


def test_long_contiguous_sequences_stand_alone() -> None:
    spans = [span(10, is_contiguous=True), span(100, is_contiguous=True), span(101, is_contiguous=True), span(102)]
    assert [len(group) for group in group_spans(spans[:3], None, min_len_in_place=50)] == [1, 1, 1]
    assert [len(group) for group in group_spans(spans[:3], None, min_len_in_place=500)] == [3]


@pytest.mark.parametrize("window", [None, 5, 40])
@pytest.mark.parametrize("is_contiguous", [True, False])
@pytest.mark.parametrize("min_bytes_in_place", [0, 1 << 30])
def test_ragged_equals_plain_attention(
    window: int | None, is_contiguous: bool, min_bytes_in_place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ragged, "MIN_BYTES_IN_PLACE", min_bytes_in_place)
    torch.manual_seed(0)
    bounds = [(0, 1), (6, 7), (29, 30), (0, 12), (7, 20), (30, 33)]
    layer = LayerShape(KV_HEADS, DIM, DIM, torch.float32)
    cache = KvCache([layer], 256, torch.device("cpu"))
    cache.keys[0].fill_(float("nan"))
    cache.values[0].fill_(float("nan"))
    slots = np.arange(256) if is_contiguous else np.random.default_rng(0).permutation(256)
    starts = [0, *accumulate(end for _, end in bounds)]
    rows = [0, *accumulate(end - start for start, end in bounds)]
    own = [slots[at : at + end] for at, (_, end) in zip(starts, bounds, strict=False)]
    spans = [
        Span(row, start, end - start, its_slots, is_contiguous)
        for row, (start, end), its_slots in zip(rows, bounds, own, strict=False)
    ]
    keys, values = ([torch.randn(end, KV_HEADS, DIM) for _, end in bounds] for _ in range(2))
    for (start, _), its_slots, key, value in zip(bounds, own, keys, values, strict=True):
        cache.keys[0][its_slots[:start]] = key[:start]
        cache.values[0][its_slots[:start]] = value[:start]
    query = torch.randn(1, HEADS, rows[-1], DIM)
    new_keys, new_values = (
        torch.cat([tensor[start:] for tensor, (start, _) in zip(tensors, bounds, strict=True)]).transpose(0, 1)[None]
        for tensors in (keys, values)
    )
    got = RaggedStep(cache, spans).attend(
        torch.nn.Identity(), query, new_keys, new_values, scaling=0.3, sliding_window=window
    )
    for row, (start, end), key, value in zip(rows, bounds, keys, values, strict=False):
        want = plain(query[0, :, row : row + end - start], key, value, start, window)
        torch.testing.assert_close(got[0, row : row + end - start], want)


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, start: int, window: int | None) -> torch.Tensor:
    """query (heads, T, d), key and value (L, kv heads, d) to (T, heads, d), as in the formula."""
    key, value = (tensor.repeat_interleave(HEADS // KV_HEADS, dim=1).transpose(0, 1) for tensor in (key, value))
    positions = torch.arange(start, key.shape[1])[:, None]
    seen = torch.arange(key.shape[1]) <= positions
    if window is not None:
        seen &= torch.arange(key.shape[1]) > positions - window
    scores = (query @ key.transpose(1, 2) * 0.3).masked_fill(~seen, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(0, 1)
