"""Rows of a source: texts and, for classification, labels, checked. Nothing is left out in silence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastserve_ray.data.chat import conversations
from fastserve_ray.data.files import find_files
from fastserve_ray.data.python_docs import python_docs
from fastserve_ray.data.readers.table import READERS, SHOWN_PLACES, FileRows, Reader, broken_rows
from fastserve_ray.errors import DataError
from fastserve_ray.spec.data import PythonDocsSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fastserve_ray.spec.data import Columns, DataSource, FilesSource


@dataclass(frozen=True)
class RawRows:
    """What a source holds."""

    texts: pa.Array
    """large_string, without nulls."""
    labels: pa.Array | None = None
    """int64, bool or large_string, one for each text; None when none were asked for."""
    label_names: tuple[str, ...] | None = None
    """Names of integer labels, where the files carry them."""
    num_skipped: int = 0
    """Empty documents that were left out; only where no labels were asked for."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: NDArray[np.int64], *, num_skipped: int = 0) -> RawRows:
        """The rows of these numbers, in this order."""
        labels = None if self.labels is None else self.labels.take(pa.array(indices))
        return RawRows(self.texts.take(pa.array(indices)), labels, self.label_names, num_skipped)


def read_rows(source: DataSource, columns: Columns, *, with_labels: bool, key: str) -> RawRows:
    """Read a source.

    A null text or label, and with labels an empty text, is an error that names file and row. Without labels an empty
    document holds nothing to learn from: it is skipped and counted.

    Args:
        key: of the source in the spec, for messages: ``data.train`` or ``data.validation``.

    Raises:
        DataError: nothing is there, it cannot be read, a column is missing or has the wrong type, or rows are broken.
    """
    if isinstance(source, PythonDocsSource):
        return RawRows(pa.array(python_docs(source.max_rows), pa.large_string()))
    names = columns.chat or ((columns.text, columns.label) if with_labels else (columns.text,))
    is_chat = bool(columns.chat)
    parts = [
        _conversations(rows) if is_chat else _checked(rows, with_labels) for rows in _read_files(source, names, key)
    ]
    texts = pa.concat_arrays([part.texts for part in parts])
    if not len(texts):
        raise DataError("there are no rows", value=source.path, allowed="at least one row with text", key=f"{key}.path")
    labels = _joined([part.labels for part in parts if part.labels is not None], source) if with_labels else None
    skipped = sum(part.num_skipped for part in parts)
    return RawRows(texts, labels, parts[0].label_names, skipped)


def _read_files(source: FilesSource, names: tuple[str, ...], key: str) -> Iterator[FileRows]:
    left = source.max_rows
    for file in find_files(source, key):
        reader: Reader = READERS.load(file.format)
        rows = reader(file, names, left, key)
        yield rows
        if left is not None:
            left -= rows.table.num_rows
            if left <= 0:
                return


def _checked(rows: FileRows, with_labels: bool) -> RawRows:
    texts = _as_text(rows.table.column(0), rows)
    is_empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)
    if not with_labels:
        _refuse(pc.is_null(texts), rows, "has no text")
        kept = texts.filter(pc.invert(is_empty))
        return RawRows(kept, num_skipped=len(texts) - len(kept))
    _refuse(pc.or_(pc.is_null(texts), pc.fill_null(is_empty, True)), rows, "has no text")
    labels = _as_label(rows.table.column(1), rows)
    _refuse(pc.is_null(labels), rows, "has no label")
    return RawRows(texts, labels, rows.label_names)


def _conversations(rows: FileRows) -> RawRows:
    found = conversations(rows.table)
    texts = pa.array(found, pa.large_string())
    _refuse(pc.is_null(texts), rows, "is no conversation with an answer")
    return RawRows(texts)


def _as_text(column: pa.ChunkedArray, rows: FileRows) -> pa.Array:
    plain = _plain(column)
    if pa.types.is_large_string(plain.type):
        return plain
    if pa.types.is_null(plain.type):
        return plain.cast(pa.large_string())
    raise DataError(
        f"column {rows.table.column_names[0]!r} of {rows.file} holds no text",
        value=str(column.type),
        allowed="a column of text",
        key="data.columns.text",
    )


def _as_label(column: pa.ChunkedArray, rows: FileRows) -> pa.Array:
    plain = _plain(column)
    kind = plain.type
    if pa.types.is_integer(kind):
        return plain.cast(pa.int64())
    if pa.types.is_boolean(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return plain
    raise DataError(
        f"column {rows.table.column_names[1]!r} of {rows.file} cannot be a label",
        value=str(column.type),
        allowed="a column of integers, booleans or text",
        key="data.columns.label",
        hint="numbers with a fraction are no classes" if pa.types.is_floating(kind) else None,
    )


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """One array, with every kind of text as large_string and dictionaries decoded."""
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    return array


def _refuse(is_broken: pa.Array, rows: FileRows, problem: str) -> None:
    broken = np.flatnonzero(is_broken.to_numpy(zero_copy_only=False))
    if len(broken):
        shown = [f"{rows.place(int(index))} {problem}" for index in broken[:SHOWN_PLACES]]
        raise broken_rows(shown, len(broken), "data.columns")


def _joined(arrays: list[pa.Array], source: FilesSource) -> pa.Array:
    kinds = sorted({str(array.type) for array in arrays})
    if len(kinds) > 1:
        raise DataError(
            "labels have different types in different files",
            value=f"{source.path}: {', '.join(kinds)}",
            allowed="one type in all files",
            key="data.columns.label",
        )
    return pa.concat_arrays(arrays)
