"""Padding of decode steps: which sizes, and what the padded columns hold."""

from __future__ import annotations

import numpy as np
import pytest

from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE
from fastserve_ray.engines.torch.paged.buckets import bucket_for, bucket_sizes, chunk_sizes, pack_decode
from fastserve_ray.engines.torch.ragged import Span


@pytest.mark.parametrize("max_num_seqs", range(1, 70))
def test_every_batch_has_a_bucket_that_wastes_little(max_num_seqs: int) -> None:
    sizes = bucket_sizes(max_num_seqs)
    assert sizes == sorted(set(sizes))
    for num_rows in range(1, max_num_seqs + 1):
        padding = bucket_for(num_rows, sizes) - num_rows
        assert padding < max(num_rows, 1) if num_rows <= 4 else padding <= 7


def test_sizes() -> None:
    assert [bucket_sizes(count) for count in (1, 3, 4, 5, 16)] == [
        [1],
        [1, 2, 3],
        [1, 2, 4],
        [1, 2, 4, 8],
        [1, 2, 4, 8, 16],
    ]
    assert chunk_sizes(512) == [16, 32, 64, 128, 256, 512]
    assert chunk_sizes(1) == [16]
    assert chunk_sizes(513)[-1] == 1024


def test_a_batch_is_one_array() -> None:
    blocks = (np.array([7, 2]), np.array([4]))
    slots = [(table[:, None] * BLOCK_SIZE + np.arange(BLOCK_SIZE)).reshape(-1) for table in blocks]
    spans = [Span(0, 17, 1, slots[0][:18], is_contiguous=False), Span(1, 3, 1, slots[1][:4], is_contiguous=True)]
    packed = pack_decode([50, 60], spans, bucket=4, scratch_block=9)
    assert packed.tolist() == [
        [50, 60, 0, 0],
        [17, 3, 0, 0],
        [2 * BLOCK_SIZE + 1, 4 * BLOCK_SIZE + 3, 9 * BLOCK_SIZE, 9 * BLOCK_SIZE],
        [7, 4, 9, 9],
        [2, 9, 9, 9],
    ]
