"""Rows of a file to texts and labels that can be used; what cannot is noted with its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from fastserve_ray.data.bad_rows import UnusableFileError
from fastserve_ray.data.chat import conversations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastserve_ray.data.bad_rows import BadRows
    from fastserve_ray.data.readers.table import FileRows

_SPELLED_NULLS = pa.array(csv.ConvertOptions().null_values, pa.large_string())
_SPELLED_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"\s*[+-]?\d{1,18}\s*")
_KINDS = {"int64": "an integer", "bool": "a boolean", "large_string": "text"}


@dataclass(frozen=True)
class RawRows:
    """Some rows of a source, in its order."""

    texts: pa.Array
    """large_string, without nulls."""
    labels: pa.Array | None = None
    """int64, bool or large_string, one for each text; None when none were asked for."""
    num_empty: int = 0
    """Empty documents that were left out here; only where no labels were asked for."""

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, mask: NDArray[np.bool_]) -> RawRows:
        """The rows for which ``mask`` is true."""
        chosen = pa.array(mask)
        return RawRows(self.texts.filter(chosen), None if self.labels is None else self.labels.filter(chosen))


class Checker:
    """Turns the rows of all files of one source into ``RawRows``.

    A null text or label, bytes that are not UTF-8, and with labels an empty text, make a row bad. Without labels an
    empty document holds nothing to learn from: it is left out and counted. The first rows decide the type of labels.
    """

    def __init__(self, bad: BadRows, *, with_labels: bool, is_chat: bool) -> None:
        self._bad = bad
        self._is_chat = is_chat
        self._with_labels = with_labels
        self._label_type: pa.DataType | None = None

    def check(self, rows: FileRows) -> RawRows:
        """The rows that can be used.

        Raises:
            UnusableFileError: a column has a type that can never be right.
            DataError: see ``BadRows``.
        """
        if self._is_chat:
            return self._conversations(rows)
        texts, is_broken = _as_text(rows.table.column(0), rows, self._bad)
        is_null = _to_mask(pc.is_null(texts)) & ~is_broken
        is_empty = _to_mask(pc.fill_null(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), False))
        if not self._with_labels:
            self._note(rows, is_null, "has no text")
            return RawRows(texts.filter(pa.array(~(is_broken | is_null | is_empty))), num_empty=int(is_empty.sum()))
        self._note(rows, is_null | is_empty, "has no text")
        is_broken |= is_null | is_empty
        labels = self._labels(rows, is_broken)
        kept = pa.array(~is_broken)
        return RawRows(texts.filter(kept), labels.filter(kept))

    def _conversations(self, rows: FileRows) -> RawRows:
        """Each as one text, see ``data.chat``."""
        columns = [_plain(column) for column in rows.table.columns]
        readable = [_as_strings(one) if pa.types.is_large_binary(one.type) else one for one in columns]
        texts = pa.array(conversations(pa.table(readable, names=rows.table.column_names)), pa.large_string())
        self._note(rows, _to_mask(pc.is_null(texts)), "is no conversation with an answer")
        return RawRows(texts.drop_null())

    def _labels(self, rows: FileRows, is_broken: NDArray[np.bool_]) -> pa.Array:
        """Labels of one type; rows that have none become broken."""
        column = rows.table.column(1)
        labels = _spelled_labels(column, self._label_type) if rows.is_spelled else _typed_labels(column, rows)
        is_null = _to_mask(pc.is_null(labels)) & ~is_broken
        if pa.types.is_null(labels.type):
            self._note(rows, is_null, "has no label")
            is_broken |= True
            return labels
        if self._label_type is None:
            self._label_type = labels.type
        if labels.type != self._label_type:
            kind, wanted = _KINDS[str(labels.type)], _KINDS[str(self._label_type)]
            self._note(rows, ~is_null & ~is_broken, f"has {kind} as label, not {wanted} as the rows before")
            is_broken |= True
            return labels
        if rows.is_spelled:
            is_other = is_null & ~_to_mask(_is_spelled_null(column))
            self._note(rows, is_other, f"has a label that is not {_KINDS[str(labels.type)]} as in the rows before")
            is_broken |= is_other
            is_null &= ~is_other
        self._note(rows, is_null, "has no label")
        is_broken |= is_null
        return labels

    def _note(self, rows: FileRows, mask: NDArray[np.bool_], problem: str) -> None:
        for index in np.flatnonzero(mask):
            self._bad.add(rows.file, rows.unit, int(rows.numbers[index]), problem, key="data.columns")


def _as_text(column: pa.ChunkedArray, rows: FileRows, bad: BadRows) -> tuple[pa.Array, NDArray[np.bool_]]:
    """large_string, and which rows are no text at all; these are noted and null."""
    plain = _plain(column)
    if pa.types.is_null(plain.type):
        return plain.cast(pa.large_string()), np.zeros(len(plain), dtype=bool)
    if not pa.types.is_large_binary(plain.type):
        raise UnusableFileError(
            f"column {rows.table.column_names[0]!r} of {rows.file} holds no text",
            value=str(column.type),
            allowed="a column of text",
            key="data.columns.text",
        )
    try:
        return plain.cast(pa.large_string()), np.zeros(len(plain), dtype=bool)
    except pa.ArrowInvalid:
        values = [_decoded(value) for value in plain.to_pylist()]
    is_broken = np.asarray([value is None for value in values]) & ~_to_mask(pc.is_null(plain))
    for index in np.flatnonzero(is_broken):
        bad.add(rows.file, rows.unit, int(rows.numbers[index]), "is not UTF-8", key="data.columns.text")
    return pa.array(values, pa.large_string()), is_broken


def _typed_labels(column: pa.ChunkedArray, rows: FileRows) -> pa.Array:
    plain = _plain(column)
    kind = plain.type
    if pa.types.is_integer(kind):
        return plain.cast(pa.int64())
    if pa.types.is_large_binary(kind):
        return _as_strings(plain)
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return plain
    raise UnusableFileError(
        f"column {rows.table.column_names[1]!r} of {rows.file} cannot be a label",
        value=str(column.type),
        allowed="a column of integers, booleans or text",
        key="data.columns.label",
        hint="numbers with a fraction are no classes" if pa.types.is_floating(kind) else None,
    )


def _spelled_labels(column: pa.ChunkedArray, wanted: pa.DataType | None) -> pa.Array:
    """What characters mean: integers or booleans where all do, or where the rows before were such; else text."""
    texts = _as_strings(_plain(column))
    is_null = _to_mask(_is_spelled_null(column))
    if is_null.all():
        return pa.nulls(len(texts))
    values: list[Any] = texts.to_pylist()
    integers = [int(value) if value is not None and _INTEGER.fullmatch(value) else None for value in values]
    if wanted == pa.int64() or (wanted is None and _is_all(integers, is_null)):
        return pa.array(integers, pa.int64())
    booleans = [_SPELLED_BOOLEANS.get(value) for value in values]
    if wanted == pa.bool_() or (wanted is None and _is_all(booleans, is_null)):
        return pa.array(booleans, pa.bool_())
    return pa.array([value or None for value in values], pa.large_string())


def _is_all(values: list[Any], is_null: NDArray[np.bool_]) -> bool:
    return all(value is not None or null for value, null in zip(values, is_null, strict=True))


def _is_spelled_null(column: pa.ChunkedArray) -> pa.Array:
    plain = _plain(column)
    return pc.or_(pc.is_null(plain), pc.is_in(_as_strings(plain), _SPELLED_NULLS))


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """One array, with every kind of text and bytes as large_binary and dictionaries decoded."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # more than one array can hold
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        array = array.cast(pa.large_string())
    if pa.types.is_binary(kind) or pa.types.is_binary_view(kind):
        return array.cast(pa.large_binary())
    return array.view(pa.large_binary()) if pa.types.is_large_string(array.type) else array


def _as_strings(binary: pa.Array) -> pa.Array:
    """Text; null where the bytes are not UTF-8."""
    try:
        return binary.cast(pa.large_string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(value) for value in binary.to_pylist()], pa.large_string())


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _to_mask(array: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = array.to_numpy(zero_copy_only=False)
    return mask.astype(bool)
