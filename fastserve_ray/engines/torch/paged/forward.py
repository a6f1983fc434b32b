"""The model over a paged cache: decode steps have fixed shapes, and run by CUDA graphs where there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from fastserve_ray.engines.torch.attention import running
from fastserve_ray.engines.torch.paged.buckets import NUM_HEADER_ROWS, bucket_for, pack_decode
from fastserve_ray.engines.torch.paged.step import PagedCache, decode_step, mixed_step
from fastserve_ray.engines.torch.ragged import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.torch.runner import StepInput


class ModelForward(Protocol):
    """`runner.forward` of one model."""

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor) -> torch.Tensor: ...


class DecodeBatch:
    """A decode step of one batch size, whose inputs and shapes stay where and what they are.

    Args:
        size: rows, padded ones included.
    """

    def __init__(self, cache: PagedCache, forward: ModelForward, size: int) -> None:
        self.size = size
        self._cache = cache
        self._forward = forward
        shape = (NUM_HEADER_ROWS + cache.table_width, size)
        self._packed = torch.full(shape, cache.scratch_block, dtype=torch.int32, device=cache.device)
        self._keep = torch.arange(size, device=cache.device)
        self._staging = torch.empty(shape, dtype=torch.int32, pin_memory=cache.device.type == "cuda")
        self._copied = torch.cuda.Event() if cache.device.type == "cuda" else None
        """When the device has read the staging memory."""
        self.load([], [])

    def load(self, ids: Sequence[int], spans: Sequence[Span]) -> None:
        """Write a step's inputs, behind what the device still does for the step before; other rows are padding."""
        if self._copied is not None:
            self._copied.synchronize()
        packed = pack_decode(ids, spans, self.size, self._cache.scratch_block)
        staged = self._staging[: len(packed)]
        staged.copy_(torch.from_numpy(packed))
        self._packed[: len(packed)].copy_(staged, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def compute(self) -> torch.Tensor:
        """Logits (size, vocabulary); those of padded rows mean nothing. No host work depends on the inputs."""
        with running(decode_step(self._cache, self._packed)):
            return self._forward(self._packed[0].long(), self._packed[1].long(), self._keep)


class Replay(Protocol):
    def __call__(self) -> torch.Tensor:
        """Do again what `DecodeBatch.compute` did, with the inputs as they are now."""
        ...


class PagedForward:
    """Runs steps. Not thread-safe; call it in inference mode.

    Args:
        forward: the model, as `runner.adopt` left it.
    """

    def __init__(self, cache: PagedCache, forward: ModelForward) -> None:
        self._cache = cache
        self._forward = forward
        self._batches: dict[int, DecodeBatch] = {}
        self._replays: dict[int, Replay] = {}

    @property
    def batch_sizes(self) -> list[int]:
        return self._cache.batch_sizes

    def batch(self, size: int) -> DecodeBatch:
        if size not in self._batches:
            self._batches[size] = DecodeBatch(self._cache, self._forward, size)
        return self._batches[size]

    def use_replay(self, size: int, replay: Replay) -> None:
        """From now on steps of ``size`` rows run by ``replay``."""
        self._replays[size] = replay

    def run(self, step: StepInput) -> torch.Tensor:
        """Logits (N, vocabulary) of the rows that the step keeps; the next step may overwrite them."""
        if all(span.num_tokens == 1 for span in step.spans):
            return self._decode(step)
        with running(mixed_step(self._cache, step.spans)):
            device = self._cache.device
            return self._forward(
                torch.tensor(step.ids, device=device),
                torch.from_numpy(step.positions).to(device),
                torch.tensor(step.keep, dtype=torch.int64, device=device),
            )

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Compile what steps will need: every batch size, and every size of a chunk, over an empty cache."""
        for size in reversed(self._cache.batch_sizes):
            self.batch(size).compute()
        for size in self._cache.chunk_sizes:
            self._read(min(size, self._cache.longest))

    def _read(self, num_tokens: int) -> None:
        """One prompt of ``num_tokens`` at the cache's beginning."""
        positions = np.arange(num_tokens)
        with running(mixed_step(self._cache, [Span(0, 0, num_tokens, positions, is_contiguous=True)])):
            ids = torch.zeros(num_tokens, dtype=torch.int64, device=self._cache.device)
            self._forward(ids, torch.from_numpy(positions).to(self._cache.device), ids[:1])

    def _decode(self, step: StepInput) -> torch.Tensor:
        num_rows = len(step.spans)
        batch = self.batch(bucket_for(num_rows, self._cache.batch_sizes))
        batch.load(step.ids, step.spans)
        logits = self._replays.get(batch.size, batch.compute)()
        if len(step.keep) == num_rows:
            return logits[:num_rows]
        return logits[torch.tensor(step.keep, dtype=torch.int64, device=logits.device)]
