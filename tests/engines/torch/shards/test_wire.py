"""A step arrives as it was sent."""

from __future__ import annotations

import numpy as np
import pytest

from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE, KvOps
from fastserve_ray.engines.torch.ragged import Span
from fastserve_ray.engines.torch.runner import StepInput
from fastserve_ray.engines.torch.shards.runner import STOP
from fastserve_ray.engines.torch.shards.wire import pack_step, unpack_step


def span(row: int, start: int, num_tokens: int, blocks: list[int], *, is_contiguous: bool = False) -> Span:
    slots = np.concatenate([np.arange(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE) for block in blocks])
    return Span(row, start, num_tokens, slots[: start + num_tokens], is_contiguous)


def step(spans: list[Span], keep: list[int], kv: KvOps) -> StepInput:
    num_tokens = sum(own.num_tokens for own in spans)
    positions = [np.arange(own.start, own.end) for own in spans] or [np.empty(0, dtype=np.int64)]
    return StepInput(list(range(70, 70 + num_tokens)), np.concatenate(positions), spans, keep, kv)


STEPS = {
    "decoding": step([span(0, 15, 1, [7]), span(1, 16, 1, [9, 2])], [0, 1], KvOps()),
    "mixed": step(
        [span(0, 0, 1, [3]), span(1, 20, 40, [4, 5, 6, 8], is_contiguous=True)],
        [0],
        KvOps(copies=[(1, 2)], swap_out=[(3, 0), (4, 1)], swap_in=[(9, 70_000)]),
    ),
    "nothing kept": step([span(0, 0, 16, [100_000])], [], KvOps()),
    "only moves": step([], [], KvOps(swap_out=[(5, 6)])),
}


@pytest.mark.parametrize("name", STEPS)
def test_round_trip(name: str) -> None:
    sent = STEPS[name]
    message = pack_step(sent)
    got = unpack_step(message)
    assert message != STOP
    assert (got.ids, got.keep, got.kv) == (sent.ids, sent.keep, sent.kv)
    assert got.positions.dtype == np.int64
    np.testing.assert_array_equal(got.positions, sent.positions)
    for here, there in zip(got.spans, sent.spans, strict=True):
        assert (here.row, here.start, here.num_tokens) == (there.row, there.start, there.num_tokens)
        assert here.is_contiguous is there.is_contiguous
        np.testing.assert_array_equal(here.slots, there.slots)


def test_a_decoding_step_fits_one_broadcast() -> None:
    """16 sequences of 1,000 tokens: 63 block numbers each, and not 1,000 slots."""
    spans = [span(row, 999, 1, list(range(63))) for row in range(16)]
    assert len(pack_step(step(spans, list(range(16)), KvOps()))) < 8000
