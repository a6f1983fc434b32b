"""Token sequences to tables of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

REPLACEMENT = "\ufffd"
"""What a character becomes that a cut went through."""
MIN_TAIL = 2
"""Tokens that a row needs for one of them to be a label."""


def concatenate(documents: Iterable[Sequence[int]], eos_token_id: int) -> NDArray[np.int32]:
    """All documents in one row of tokens; each ends in ``eos_token_id``, which is added where it does not yet."""
    parts = []
    for ids in documents:
        ended = ids if len(ids) and ids[-1] == eos_token_id else [*ids, eos_token_id]
        parts.append(np.asarray(ended, dtype=np.int32))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)


def blocks(tokens: NDArray[np.int32], max_length: int) -> pa.LargeListArray:
    """``tokens`` cut into rows of ``max_length``.

    The rest is a last, shorter row, so no text is lost; a rest of a single token, which predicts nothing, is dropped.
    """
    rest = len(tokens) % max_length
    end = len(tokens) - (rest if rest < MIN_TAIL else 0)
    starts: NDArray[np.int64] = np.arange(0, end, max_length, dtype=np.int64)
    offsets: NDArray[np.int64] = np.append(starts, end)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(tokens[:end]))


def ragged(rows: Iterable[Sequence[int]]) -> pa.LargeListArray:
    """Rows of different lengths as they are."""
    parts = [np.asarray(row, dtype=np.int32) for row in rows]
    offsets = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
    tokens = np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(tokens))


def plain_texts(tokenizer: Any, rows: pa.LargeListArray) -> pa.Array:
    """For each row the longest stretch that lies within one document, decoded: text without special tokens."""
    tokens, offsets = rows.values.to_numpy(), rows.offsets.to_numpy()
    special = np.asarray(tokenizer.all_special_ids)
    stretches = [
        max(np.split(row, np.flatnonzero(np.isin(row, special))), key=len).tolist()
        for row in np.split(tokens, offsets[1:-1])
    ]
    texts = tokenizer.batch_decode(stretches, skip_special_tokens=True)
    return pa.array([text.strip(REPLACEMENT) for text in texts], type=pa.large_string())
