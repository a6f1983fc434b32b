"""Attention over block tables against plain attention, one sequence at a time."""

from __future__ import annotations

import shutil

import pytest
import torch

from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE
from fastserve_ray.engines.torch.paged.kernels import DenseKernel, FlexKernel, PagedKernel
from tests.engines.torch.paged.cases import NUM_BLOCKS, Case

MIXED = [(0, 1), (15, 16), (16, 17), (59, 60), (0, 12), (7, 20), (30, 63)]
LONG = [(20, 21), (13, 200)]
"""A chunk of more than one run of queries."""


@pytest.mark.parametrize("window", [None, 1, 5, 16, 40])
@pytest.mark.parametrize("bounds", [MIXED, LONG], ids=["mixed", "long"])
def test_dense_equals_plain_attention(bounds: list[tuple[int, int]], window: int | None) -> None:
    case = Case(bounds, window)
    torch.testing.assert_close(case.attend(DenseKernel()), case.expected())


def test_the_default_scale() -> None:
    case = Case(MIXED, scaling=None)
    torch.testing.assert_close(case.attend(DenseKernel()), case.expected())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
@pytest.mark.parametrize("window", [None, 5])
def test_flex_equals_plain_attention(window: int | None) -> None:
    kernel: PagedKernel = FlexKernel()
    with torch.inference_mode():
        for bounds in ([(59, 60), (70, 71), (99, 100)], [(30, 63)], LONG[1:]):
            case = Case(bounds, window)
            torch.testing.assert_close(case.attend(kernel), case.expected())


def test_what_others_left_in_a_block_does_not_show() -> None:
    """Large keys and values behind a sequence's end, in its last block."""
    case = Case(MIXED)
    for span in case.spans:
        end = int(span.slots[-1]) + 1
        for pool in (case.cache.keys[0], case.cache.values[0]):
            pool[end : -(-end // BLOCK_SIZE) * BLOCK_SIZE] = 1e4
    torch.testing.assert_close(case.attend(DenseKernel()), case.expected())


def test_what_is_not_finite_is_not_kept() -> None:
    """A request whose numbers overflow must not harm the one that gets its blocks."""
    case = Case([(4, 5), (0, 3)])
    case.keys[0][4], case.values[0][4] = float("nan"), float("inf")
    got, expected = case.attend(DenseKernel()), case.expected()
    assert torch.isfinite(case.cache.keys[0]).all()
    assert torch.isfinite(case.cache.values[0]).all()
    torch.testing.assert_close(got[1:], expected[1:])


def test_padded_rows_write_to_the_scratch_block_alone() -> None:
    """Three rows in a batch of four, two chunks in sixteen rows each: nothing but their own slots changes."""
    case = Case([(4, 5), (20, 21), (2, 3), (0, 5), (17, 20)])
    before = torch.randn_like(case.cache.keys[0])
    case.cache.keys[0].copy_(before)
    case.attend(DenseKernel())
    own = [slot for span in case.spans for slot in span.slots.tolist()]
    others = [slot for slot in range(NUM_BLOCKS * BLOCK_SIZE) if slot not in own]
    assert torch.equal(case.cache.keys[0][others], before[others])
