"""Decode steps padded to few batch sizes, so that each size is compiled and captured once. No tensors.

A padded row is a sequence of one token in the scratch block, which belongs to nobody: it writes there, reads what it
wrote, and its output is cut off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.torch.ragged import Span

BUCKET_STEP = 8
"""Batch sizes are powers of two up to here, and then multiples: at most 7 rows are padded, or half of a small batch."""
MIN_CHUNK = 16
NUM_HEADER_ROWS = 3
"""Rows of a packed batch in front of the block tables: token ids, positions, slots."""


def bucket_sizes(max_num_seqs: int) -> list[int]:
    """The batch sizes that decode steps are padded to, ascending; the last holds ``max_num_seqs``.

    >>> bucket_sizes(20)
    [1, 2, 4, 8, 16, 24]
    """
    small = [size for size in (1, 2, 4) if size < max_num_seqs]
    steps = range(BUCKET_STEP, max_num_seqs + BUCKET_STEP, BUCKET_STEP)
    return [*small, *steps] if max_num_seqs > BUCKET_STEP // 2 else [*small, max_num_seqs]


def chunk_sizes(max_num_tokens: int) -> list[int]:
    """The numbers of rows that chunks of prompts are padded to: powers of two, the last at least ``max_num_tokens``."""
    sizes = [MIN_CHUNK]
    while sizes[-1] < max_num_tokens:
        sizes.append(2 * sizes[-1])
    return sizes


def bucket_for(num_rows: int, sizes: Sequence[int]) -> int:
    """The smallest of ``sizes`` that holds ``num_rows``, which one must."""
    return next(size for size in sizes if size >= num_rows)


def num_blocks_of(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_SIZE)


def block_table(span: Span) -> np.ndarray:
    """The blocks that hold positions [0, end) of ``span``, in order."""
    blocks: np.ndarray = span.slots[: span.end : BLOCK_SIZE] // BLOCK_SIZE
    return blocks


def pack_decode(ids: Sequence[int], spans: Sequence[Span], bucket: int, scratch_block: int) -> np.ndarray:
    """A decode step as one array, so that one copy brings it to the device.

    Args:
        ids: (N,) tokens.
        spans: (N,) of one token each.
        bucket: columns, at least N.

    Returns:
        (3 + L, bucket) int32: token ids; positions; slots; block tables, downwards, L being the longest. Where a table
        has ended, and in padded columns, it holds ``scratch_block``.
    """
    tables = [block_table(span) for span in spans]
    longest = max((len(table) for table in tables), default=1)
    packed: np.ndarray = np.full((NUM_HEADER_ROWS + longest, bucket), scratch_block, dtype=np.int32)
    packed[0], packed[1], packed[2] = 0, 0, scratch_block * BLOCK_SIZE
    for column, (token, span, table) in enumerate(zip(ids, spans, tables, strict=True)):
        packed[:NUM_HEADER_ROWS, column] = token, span.start, span.slots[span.start]
        packed[NUM_HEADER_ROWS : NUM_HEADER_ROWS + len(table), column] = table
    return packed
