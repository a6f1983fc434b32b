"""Attention of one ragged step over the paged cache.

All tokens of a step stand in one row, without padding. Sequences that read one token (decoding) are gathered into
groups of similar length, one kernel call a group; chunks of prompts are attended one by one. What does not depend on
the layer (slots, masks) is built once a step, for each sliding window that the model's layers use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.torch.kv_cache import KvCache

MAX_GROUP_PADDING = 512
"""Slots that a decode group may gather for nothing; about what one more kernel call costs on a CPU."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where one sequence's tokens are in a step's row, and where its cached tokens are."""

    row: int
    """First token in the row."""
    start: int
    """Its position in the sequence."""
    num_tokens: int
    slots: np.ndarray
    """The cache's slot of every position of the sequence, at least up to the last of this step."""

    @property
    def end(self) -> int:
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows [first, last), one token each, against gathered keys padded to the longest."""

    first: int
    last: int
    slots: torch.Tensor
    """(G * L,) int64; padding repeats a slot of the same sequence, so it is finite."""
    mask: torch.Tensor | None
    """(G, 1, 1, L), added to the scores; None when all have length L."""

    def attend(
        self, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """rows (T, heads, d), pools (slots, kv heads, d) to (G, heads, d)."""
        size, num_heads, num_kv_heads = self.last - self.first, rows.shape[1], keys.shape[1]
        query = rows[self.first : self.last].reshape(size, num_kv_heads, num_heads // num_kv_heads, -1)
        key = keys.index_select(0, self.slots).view(size, -1, num_kv_heads, keys.shape[2]).transpose(1, 2)
        value = values.index_select(0, self.slots).view(size, -1, num_kv_heads, values.shape[2]).transpose(1, 2)
        return sdpa(query, key, value, attn_mask=self.mask, scale=scaling).reshape(size, num_heads, -1)


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """Rows [first, last) of one sequence against all of its tokens up to them."""

    first: int
    last: int
    slots: torch.Tensor
    """(L,) int64: the keys that any of the rows may see."""
    mask: torch.Tensor | None
    """(rows, L), added to the scores; None when the chunk begins its sequence, where causality says it all."""

    def attend(
        self, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """rows (T, heads, d), pools (slots, kv heads, d) to (rows, heads, d)."""
        output = sdpa(
            rows[self.first : self.last].transpose(0, 1)[None],
            keys.index_select(0, self.slots).transpose(0, 1)[None],
            values.index_select(0, self.slots).transpose(0, 1)[None],
            attn_mask=self.mask,
            is_causal=self.mask is None,
            scale=scaling,
            enable_gqa=rows.shape[1] != keys.shape[1],
        )
        return output[0].transpose(0, 1)


class RaggedStep:
    """One step over the paged cache; see `attention.Step`.

    Args:
        spans: the step's sequences by place in the row; those with one token first, shorter ones before longer ones.
    """

    def __init__(self, cache: KvCache, spans: Sequence[Span]) -> None:
        self._cache = cache
        self._spans = spans
        self._device = cache.keys[0].device
        self._dtype = cache.keys[0].dtype
        self._new_slots = self._tensor(np.concatenate([span.slots[span.start : span.end] for span in spans]))
        self._plans: dict[int | None, list[DecodeGroup | PromptChunk]] = {}
        self._layer = 0

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
        keys.index_copy_(0, self._new_slots, key[0].transpose(0, 1))
        values.index_copy_(0, self._new_slots, value[0].transpose(0, 1))
        rows = query[0].transpose(0, 1)
        outputs = [piece.attend(rows, keys, values, scaling) for piece in self._plan(sliding_window)]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None]

    def _plan(self, window: int | None) -> list[DecodeGroup | PromptChunk]:
        plan = self._plans.get(window)
        if plan is None:
            num_decoding = sum(span.num_tokens == 1 for span in self._spans)
            decoding, chunks = self._spans[:num_decoding], self._spans[num_decoding:]
            groups = [self._group(spans, window) for spans in group_by_length(decoding, window)]
            plan = [*groups, *(self._chunk(span, window) for span in chunks)]
            self._plans[window] = plan
        return plan

    def _group(self, spans: Sequence[Span], window: int | None) -> DecodeGroup:
        lengths = np.array([_num_seen(span, window) for span in spans])
        longest = int(lengths.max())
        slots: np.ndarray = np.empty((len(spans), longest), dtype=np.int64)
        for row, span, length in zip(slots, spans, lengths, strict=True):
            row[:length] = span.slots[span.end - length : span.end]
            row[length:] = row[0]
        hidden = np.arange(longest) >= lengths[:, None]
        mask = self._additive(hidden)[:, None, None, :] if hidden.any() else None
        return DecodeGroup(spans[0].row, spans[-1].row + 1, self._tensor(slots.reshape(-1)), mask)

    def _chunk(self, span: Span, window: int | None) -> PromptChunk:
        first_key = 0 if window is None else max(0, span.start - window + 1)
        mask = None
        if span.start > 0 or (window is not None and span.end > window):
            query_positions = np.arange(span.start, span.end)[:, None]
            key_positions = np.arange(first_key, span.end)
            hidden = key_positions > query_positions
            if window is not None:
                hidden |= key_positions <= query_positions - window
            mask = self._additive(hidden)
        return PromptChunk(span.row, span.row + span.num_tokens, self._tensor(span.slots[first_key : span.end]), mask)

    def _additive(self, hidden: np.ndarray) -> torch.Tensor:
        mask = torch.zeros(hidden.shape, dtype=self._dtype)
        return mask.masked_fill_(torch.from_numpy(hidden), float("-inf")).to(self._device)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _num_seen(span: Span, window: int | None) -> int:
    """Keys that the last token of ``span`` sees, itself included."""
    return span.end if window is None else min(span.end, window)


def group_by_length(spans: Sequence[Span], window: int | None) -> list[Sequence[Span]]:
    """Cut ``spans``, sorted by length, into runs that waste at most `MAX_GROUP_PADDING` slots each."""
    groups: list[Sequence[Span]] = []
    begin, num_real = 0, 0
    for at, span in enumerate(spans):
        length = _num_seen(span, window)
        if at > begin and length * (at - begin) - num_real > MAX_GROUP_PADDING:
            groups.append(spans[begin:at])
            begin, num_real = at, 0
        num_real += length
    if begin < len(spans):
        groups.append(spans[begin:])
    return groups
