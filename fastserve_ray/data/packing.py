"""Token sequences to tables of rows.

A packed row holds several documents one after the other. Its column ``lengths`` says where each begins, so that
attention and positions can start anew there (``tasks.packed``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fastserve_ray.data.chat import Chat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

REPLACEMENT = "\ufffd"
"""What a character becomes that a cut went through."""
MIN_PIECE = 2
"""Tokens that a document needs for one of them to be a label."""

OPEN_ROWS = 32
"""Rows that wait for conversations that still fit."""

PackedRow = list[list[int]]
"""The documents, or parts of documents, of one row."""


class Packer:
    """Documents one after the other, cut into rows of ``max_length``; holds one row at a time.

    Each document ends in ``eos_token_id``, which is added where it does not yet. One that does not fit goes on in the
    next row, as a document of its own. The last row may be shorter, so no text is lost; a rest of a single token,
    which predicts nothing, is dropped.
    """

    def __init__(self, eos_token_id: int, max_length: int) -> None:
        self._eos = eos_token_id
        self._max_length = max_length
        self._row: PackedRow = []
        self._room = max_length

    def add(self, document: Sequence[int]) -> Iterator[PackedRow]:
        """The rows that ``document`` fills."""
        ids = list(document)
        if not ids or ids[-1] != self._eos:
            ids.append(self._eos)
        start = 0
        while start < len(ids):
            piece = ids[start : start + self._room]
            self._row.append(piece)
            self._room -= len(piece)
            start += len(piece)
            if not self._room:
                yield self._row
                self._row, self._room = [], self._max_length

    def rest(self) -> Iterator[PackedRow]:
        """The last row, when it has a label."""
        if any(len(piece) >= MIN_PIECE for piece in self._row):
            yield self._row
        self._row, self._room = [], self._max_length


def pack(documents: Iterable[Sequence[int]], eos_token_id: int, max_length: int) -> Iterator[PackedRow]:
    """All documents as rows; see ``Packer``."""
    packer = Packer(eos_token_id, max_length)
    for document in documents:
        yield from packer.add(document)
    yield from packer.rest()


class WholePacker:
    """Conversations packed whole: each goes into the first of a few open rows that has room for it.

    One that is longer than ``max_length`` keeps its first tokens; what has no answer left is skipped and counted.
    """

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self._open: list[list[Chat]] = []
        self.num_skipped = 0
        self.num_cut = 0

    def add(self, chat: Chat) -> Iterator[list[Chat]]:
        """The rows that are full now."""
        self.num_cut += len(chat.ids) > self._max_length
        cut = Chat(chat.ids[: self._max_length], chat.is_answer[: self._max_length])
        if not any(cut.is_answer[1:]):
            self.num_skipped += 1
            return
        row = next((row for row in self._open if _length(row) + len(cut.ids) <= self._max_length), None)
        if row is None:
            self._open.append(row := [])
        row.append(cut)
        if _length(row) > self._max_length - MIN_PIECE:
            self._open.remove(row)
            yield row
        elif len(self._open) > OPEN_ROWS:
            yield self._open.pop(max(range(len(self._open)), key=lambda index: _length(self._open[index])))

    def rest(self) -> Iterator[list[Chat]]:
        """The rows that are still open."""
        yield from self._open
        self._open = []


def _length(row: Sequence[Chat]) -> int:
    return sum(len(chat.ids) for chat in row)


def chat_table(rows: Iterable[Sequence[Chat]]) -> pa.Table:
    """As ``packed_table``, with ``answers``: first and one past the last position of each run of trained tokens."""
    rows = list(rows)
    bounds = []
    for row in rows:
        is_answer = np.concatenate([[False], *(chat.is_answer for chat in row), [False]]).astype(np.int8)
        bounds.append(np.flatnonzero(np.diff(is_answer)).tolist())
    table = packed_table([[chat.ids for chat in row] for row in rows])
    return table.append_column("answers", pa.array(bounds, pa.list_(pa.int32())))


def packed_table(rows: Iterable[PackedRow]) -> pa.Table:
    """``input_ids`` of each row, and the ``lengths`` of its documents in order."""
    ids, lengths = [], []
    for row in rows:
        ids.append(np.concatenate([np.asarray(piece, dtype=np.int32) for piece in row]))
        lengths.append([len(piece) for piece in row])
    return pa.table({"input_ids": ragged(ids), "lengths": pa.array(lengths, pa.list_(pa.int32()))})


def ragged(rows: Iterable[Sequence[int] | NDArray[np.int32]]) -> pa.LargeListArray:
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
