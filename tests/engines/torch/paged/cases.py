"""Sequences laid over a shuffled cache, and what plain attention says about them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch

from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE, KvCache, LayerShape
from fastserve_ray.engines.torch.paged.step import PagedCache, PagedLimits, mixed_step
from fastserve_ray.engines.torch.ragged import Span

if TYPE_CHECKING:
    from fastserve_ray.engines.torch.paged.kernels import PagedKernel

NUM_BLOCKS = 24
HEADS, KV_HEADS, DIM = 4, 2, 16
LIMITS = PagedLimits(max_num_seqs=8, max_num_batched_tokens=256, max_model_len=(NUM_BLOCKS + 1) * BLOCK_SIZE)
"""Tables as wide as the cache, which flex attention wants on a CPU."""


@dataclass
class Case:
    """A step with one sequence for each of ``bounds``, [start, end); those of one token first."""

    bounds: list[tuple[int, int]]
    window: int | None = None
    scaling: float | None = 0.3
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.cache = KvCache(
            [LayerShape(KV_HEADS, DIM, DIM, torch.float32)],
            (NUM_BLOCKS + 1) * BLOCK_SIZE,
            torch.device(self.device),
            is_zeroed=True,
        )
        free = iter(np.random.default_rng(self.seed).permutation(NUM_BLOCKS))
        ends = [end for _, end in self.bounds]
        rows = [0, *accumulate(end - start for start, end in self.bounds)]
        self.spans = []
        for row, (start, end) in zip(rows, self.bounds, strict=False):
            blocks = np.array([next(free) for _ in range(-(-end // BLOCK_SIZE))])
            slots = (blocks[:, None] * BLOCK_SIZE + np.arange(BLOCK_SIZE)).reshape(-1)[:end]
            self.spans.append(Span(row, start, end - start, slots, is_contiguous=False))
        self.keys, self.values = ([torch.randn(end, KV_HEADS, DIM) for end in ends] for _ in range(2))
        self.query = torch.randn(1, HEADS, rows[-1], DIM)

    def attend(self, kernel: PagedKernel) -> torch.Tensor:
        """(T, heads, d) by the kernel; what is before the step is written to the cache first."""
        for span, key, value in zip(self.spans, self.keys, self.values, strict=True):
            before = torch.from_numpy(span.slots[: span.start]).to(self.device)
            self.cache.keys[0][before] = key[: span.start].to(self.device)
            self.cache.values[0][before] = value[: span.start].to(self.device)
        new_key, new_value = (
            torch.cat([tensor[span.start :] for tensor, span in zip(tensors, self.spans, strict=True)])
            for tensors in (self.keys, self.values)
        )
        step = mixed_step(PagedCache(self.cache, kernel, LIMITS), self.spans)
        return step.attend(
            torch.nn.Identity(),
            self.query.to(self.device),
            new_key.to(self.device).transpose(0, 1)[None],
            new_value.to(self.device).transpose(0, 1)[None],
            scaling=self.scaling,
            sliding_window=self.window,
        )[0]

    def expected(self) -> torch.Tensor:
        """(T, heads, d), sequence by sequence, as in the formula."""
        outputs = []
        for span, key, value in zip(self.spans, self.keys, self.values, strict=True):
            keys, values = (each.repeat_interleave(HEADS // KV_HEADS, dim=1).transpose(0, 1) for each in (key, value))
            at = torch.arange(span.start, span.end)[:, None]
            seen = torch.arange(span.end) <= at
            if self.window is not None:
                seen &= torch.arange(span.end) > at - self.window
            query = self.query[0, :, span.row : span.row + span.num_tokens]
            scores = query @ keys.transpose(1, 2) * (self.scaling if self.scaling is not None else DIM**-0.5)
            outputs.append((scores.masked_fill(~seen, float("-inf")).softmax(-1) @ values).transpose(0, 1))
        return torch.cat(outputs)
