"""One step through a paged kernel: rows that decode in one call, each chunk of a prompt in one of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import pad

from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE
from fastserve_ray.engines.torch.paged.buckets import (
    NUM_HEADER_ROWS,
    block_table,
    bucket_for,
    bucket_sizes,
    chunk_sizes,
    num_blocks_of,
    pack_decode,
)
from fastserve_ray.engines.torch.paged.pages import Places, Queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.torch.kv_cache import KvCache
    from fastserve_ray.engines.torch.paged.kernels import Blocks, PagedKernel
    from fastserve_ray.engines.torch.ragged import Span


@dataclass(frozen=True)
class PagedLimits:
    """What decides the shapes that steps are padded to."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int


class PagedCache:
    """A KV cache read by block tables. Its last block is scratch: padded rows write to it.

    Args:
        cache: zeroed, since the kernel multiplies what nobody has written by zero.
    """

    def __init__(self, cache: KvCache, kernel: PagedKernel, limits: PagedLimits) -> None:
        self.keys = cache.keys
        self.values = cache.values
        self.kernel = kernel
        self.device = cache.keys[0].device
        num_blocks = cache.keys[0].shape[0] // BLOCK_SIZE
        self.scratch_block = num_blocks - 1
        self.places = Places(num_blocks, self.device)
        self.batch_sizes = bucket_sizes(limits.max_num_seqs)
        self.longest = min(limits.max_model_len, self.scratch_block * BLOCK_SIZE)
        """Tokens of the longest sequence."""
        self.chunk_sizes = chunk_sizes(min(limits.max_num_batched_tokens, self.longest))
        self.table_width = num_blocks_of(limits.max_model_len)
        """Blocks of the longest sequence."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [first, last) of the step."""

    first: int
    last: int
    queries: Queries
    """Padded: of B sequences with one row each, or of one sequence with R rows."""

    def attend(
        self,
        kernel: PagedKernel,
        rows: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        blocks: Blocks,
        *,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """rows (T, heads, d) and the cache's pools to (last - first, heads, d)."""
        num_rows = self.last - self.first
        num_seqs, num_queries = self.queries.positions.shape
        padded = pad(rows[self.first : self.last], (0, 0, 0, 0, 0, num_seqs * num_queries - num_rows))
        query = padded.view(num_seqs, num_queries, *rows.shape[1:]).transpose(1, 2)
        output = kernel(query, keys, values, self.queries, blocks, scaling=scaling, window=window)
        return output.transpose(1, 2).flatten(0, 1)[:num_rows]


class PagedStep:
    """One step over the paged cache; see `attention.Step`.

    Args:
        pieces: of all rows, in their order.
        new_slots: (T,) int64, where each row's key and value go.
    """

    def __init__(self, cache: PagedCache, pieces: Sequence[Piece], new_slots: torch.Tensor) -> None:
        self._cache = cache
        self._pieces = pieces
        self._new_slots = new_slots
        self._blocks: dict[int | None, list[Blocks]] = {}
        self._layer = 0
        for piece in pieces:
            cache.places.note(piece.queries.table, piece.queries.positions[:, -1])

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float | None,
        sliding_window: int | None,
        **others: Any,
    ) -> torch.Tensor:
        keys, values = self._cache.keys[self._layer], self._cache.values[self._layer]
        self._layer += 1
        keys.index_copy_(0, self._new_slots, _finite(key[0]))
        values.index_copy_(0, self._new_slots, _finite(value[0]))
        if sliding_window not in self._blocks:
            self._blocks[sliding_window] = [piece.queries.visible_blocks(sliding_window) for piece in self._pieces]
        rows = query[0].transpose(0, 1)
        outputs = [
            piece.attend(self._cache.kernel, rows, keys, values, blocks, scaling=scaling, window=sliding_window)
            for piece, blocks in zip(self._pieces, self._blocks[sliding_window], strict=True)
        ]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None]


def decode_step(cache: PagedCache, packed: torch.Tensor) -> PagedStep:
    """A step in which every column of ``packed`` decodes: of `buckets.pack_decode`, with tables of full width.

    All in tensors of fixed shapes: what is captured with one content runs with another.
    """
    table = packed[NUM_HEADER_ROWS:].T.contiguous()
    queries = Queries(table, packed[1, :, None].contiguous(), cache.places.of_block)
    return PagedStep(cache, [Piece(0, packed.shape[1], queries)], packed[2].long())


def mixed_step(cache: PagedCache, spans: Sequence[Span]) -> PagedStep:
    """A step of any spans: those with one token first, as `RaggedStep` has them."""
    num_decoding = sum(span.num_tokens == 1 for span in spans)
    pieces = [_chunk(cache, span) for span in spans[num_decoding:]]
    if num_decoding:
        pieces.insert(0, _decoding(cache, spans[:num_decoding]))
    new_slots = np.concatenate([span.slots[span.start : span.end] for span in spans])
    return PagedStep(cache, pieces, torch.from_numpy(new_slots).to(cache.device))


def full_width(cache: PagedCache, packed: np.ndarray) -> np.ndarray:
    """``packed`` of `buckets.pack_decode` with tables as wide as the longest sequence's."""
    missing = NUM_HEADER_ROWS + cache.table_width - len(packed)
    padded: np.ndarray = np.pad(packed, ((0, missing), (0, 0)), constant_values=cache.scratch_block)
    return padded


def _decoding(cache: PagedCache, spans: Sequence[Span]) -> Piece:
    bucket = bucket_for(len(spans), cache.batch_sizes)
    packed = full_width(cache, pack_decode([0] * len(spans), spans, bucket, cache.scratch_block))
    numbers = torch.from_numpy(packed).to(cache.device)
    table = numbers[NUM_HEADER_ROWS:].T.contiguous()
    return Piece(0, len(spans), Queries(table, numbers[1, :, None].contiguous(), cache.places.of_block))


def _chunk(cache: PagedCache, span: Span) -> Piece:
    """Padded rows are at the chunk's last position."""
    num_rows = bucket_for(span.num_tokens, cache.chunk_sizes)
    table: np.ndarray = np.full((1, cache.table_width), cache.scratch_block, dtype=np.int32)
    blocks = block_table(span)
    table[0, : len(blocks)] = blocks
    positions = np.minimum(span.start + np.arange(num_rows, dtype=np.int32), span.end - 1)[None]
    queries = Queries(
        torch.from_numpy(table).to(cache.device), torch.from_numpy(positions).to(cache.device), cache.places.of_block
    )
    return Piece(span.row, span.row + span.num_tokens, queries)


def _finite(new: torch.Tensor) -> torch.Tensor:
    """(kv heads, T, d) to (T, kv heads, d). What is not finite would reach whoever gets the block next, since kernels
    load whole blocks; the request that made it fails by its logits all the same."""
    return torch.nan_to_num(new.transpose(0, 1), nan=0.0, posinf=0.0, neginf=0.0)
