"""A step's input as bytes: what the other ranks need to know, and no more.

One run of 32-bit numbers: the counts, then every part. Slots go as block numbers (a 16th of them); positions not at
all, since they follow from the spans. Nothing is unpickled, so a stranger on the network cannot make a rank run code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE, BlockMoves, KvOps
from fastserve_ray.engines.torch.ragged import Span
from fastserve_ray.engines.torch.runner import StepInput

if TYPE_CHECKING:
    from collections.abc import Sequence

_IN_BLOCK: np.ndarray = np.arange(BLOCK_SIZE, dtype=np.int64)
_NUM_PARTS = 7


def pack_numbers(numbers: Sequence[int]) -> bytes:
    return bytes(np.array(numbers, dtype=np.int32).data)


def unpack_numbers(message: bytes) -> list[int]:
    numbers: list[int] = np.frombuffer(message, dtype=np.int32).tolist()
    return numbers


def pack_step(step: StepInput) -> bytes:
    spans = [(span.row, span.start, span.num_tokens, int(span.is_contiguous)) for span in step.spans]
    blocks: list[np.ndarray] = [span.slots[: span.end : BLOCK_SIZE] // BLOCK_SIZE for span in step.spans]
    moves = (step.kv.copies, step.kv.swap_out, step.kv.swap_in)
    parts = [np.asarray(part, dtype=np.int32).reshape(-1) for part in (step.ids, step.keep, spans, *moves)]
    parts.append(np.concatenate(blocks).astype(np.int32) if blocks else np.empty(0, dtype=np.int32))
    assert len(parts) == _NUM_PARTS
    return bytes(np.concatenate([np.array([len(part) for part in parts], dtype=np.int32), *parts]).data)


def unpack_step(message: bytes) -> StepInput:
    numbers = np.frombuffer(message, dtype=np.int32)
    ends = np.cumsum(numbers[:_NUM_PARTS])
    ids, keep, table, copies, swap_out, swap_in, blocks = np.split(numbers[_NUM_PARTS:], ends[:-1])
    spans = _spans(table.reshape(-1, 4).tolist(), blocks.astype(np.int64))
    positions = [np.arange(span.start, span.end) for span in spans]
    return StepInput(
        ids=ids.tolist(),
        positions=np.concatenate(positions) if positions else np.empty(0, dtype=np.int64),
        spans=spans,
        keep=keep.tolist(),
        kv=KvOps(_moves(copies), _moves(swap_out), _moves(swap_in)),
    )


def _spans(table: list[list[int]], blocks: np.ndarray) -> list[Span]:
    spans, first = [], 0
    for row, start, num_tokens, is_contiguous in table:
        last = first - (-(start + num_tokens) // BLOCK_SIZE)
        slots = (blocks[first:last, None] * BLOCK_SIZE + _IN_BLOCK).reshape(-1)[: start + num_tokens]
        spans.append(Span(row, start, num_tokens, slots, is_contiguous=bool(is_contiguous)))
        first = last
    return spans


def _moves(numbers: np.ndarray) -> BlockMoves:
    return [(int(block), int(to)) for block, to in numbers.reshape(-1, 2)]
