"""JSON Lines: one object a line, UTF-8; empty lines are skipped. Read line by line, so that errors name the line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fastserve_ray.data.readers.table import CHUNK_BYTES, CHUNK_ROWS, FileRows, missing_column

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fastserve_ray.data.bad_rows import BadRows
    from fastserve_ray.data.files import SourceFile

_KINDS = {str: "text", bool: "a boolean", int: "an integer", float: "a number", list: "a list", dict: "an object"}
_LABEL_KINDS = (str, bool, int)
_HINT = "JSON Lines has one object on each line; data.on_bad_rows: skip leaves others out"


def read(file: SourceFile, columns: Mapping[str, str], bad: BadRows, key: str) -> Iterator[FileRows]:
    """A key that some objects lack is null there; one that all objects of the file's first chunk lack is a missing
    column. The file's first label decides the type of all."""
    chunk = _Chunk(file, columns, bad, key)
    with file.open_lines(key) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                chunk.add(line, number)
            if chunk.is_full:
                yield chunk.take()
    if chunk.numbers:
        yield chunk.take()


class _Chunk:
    """Rows that gather until they are enough."""

    def __init__(self, file: SourceFile, columns: Mapping[str, str], bad: BadRows, key: str) -> None:
        self._file = file
        self._columns = columns
        self._bad = bad
        self._key = key
        self._known: dict[str, None] | None = {}
        self._label_kind: type | None = None
        self._begin()

    def _begin(self) -> None:
        self.numbers: list[int] = []
        self._values: dict[str, list[Any]] = {role: [] for role in self._columns}
        self._num_bytes = 0

    @property
    def is_full(self) -> bool:
        return self._num_bytes >= CHUNK_BYTES or len(self.numbers) >= CHUNK_ROWS

    def add(self, line: bytes, number: int) -> None:
        """One line; what is wrong with it is noted."""
        self._num_bytes += len(line)
        row, problem = _parse(line)
        if row is not None:
            if self._known is not None:
                self._known.update(dict.fromkeys(row))
            problem = next((found for role in self._columns if (found := self._problem(role, row))), "")
            if not problem and b"\\u" in line:
                problem = self._surrogate_problem(row)
        if row is None or problem:
            key = f"{self._key}.path" if row is None else "data.columns"
            self._bad.add(self._file.uri, "line", number, problem, key=key, hint=_HINT if row is None else None)
            return
        self.numbers.append(number)
        for role, column in self._columns.items():
            value = row.get(column)
            self._values[role].append(json.dumps(value) if isinstance(value, list) else value)

    def take(self) -> FileRows:
        """The rows so far, and begin anew."""
        self._require_columns()
        arrays = {
            self._columns[role]: pa.array(values, type=_arrow_type(values)) for role, values in self._values.items()
        }
        numbers = np.asarray(self.numbers, dtype=np.int64)
        self._begin()
        return FileRows(self._file.uri, pa.table(arrays), numbers, "line")

    def _require_columns(self) -> None:
        if self._known is None or not self.numbers:
            return
        for role, column in self._columns.items():
            if column not in self._known:
                raise missing_column(column, list(self._known), self._file.uri, role)
        self._known = None

    def _problem(self, role: str, row: Mapping[str, Any]) -> str:
        """What is wrong with a value; null is for those who know whether it is wanted."""
        value = row.get(self._columns[role])
        if value is None:
            return ""
        kind = type(value)
        if role == "label":
            return self._label_problem(kind, value)
        if role == "messages":
            return "" if kind in {str, list} else f"has {_KINDS[kind]} where a conversation belongs: {value!r:.60}"
        return "" if kind is str else f"has {_KINDS[kind]} where text belongs: {value!r:.60}"

    def _surrogate_problem(self, row: Mapping[str, Any]) -> str:
        values = (row.get(column) for column in self._columns.values())
        has_surrogate = any("\ud800" <= char <= "\udfff" for text in values if isinstance(text, str) for char in text)
        return "has half of a surrogate pair, which is no character" if has_surrogate else ""

    def _label_problem(self, kind: type, value: Any) -> str:
        if kind not in _LABEL_KINDS or (kind is int and not -(2**63) <= value < 2**63):
            return f"has {_KINDS[kind]} that cannot be a label: {value!r:.60}"
        if self._label_kind is None:
            self._label_kind = kind
        if kind is not self._label_kind:
            return f"has a label of another type than the rows before: {value!r:.60} is {_KINDS[kind]}"
        return ""


def _parse(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The object, or None and what is wrong."""
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        return None, f"is not UTF-8 ({error.reason})"
    except (ValueError, RecursionError) as error:
        return None, f"is not JSON ({error})"
    if not isinstance(row, dict):
        return None, f"is {_KINDS.get(type(row), 'null')}, not an object"
    return row, ""


def _arrow_type(values: list[Any]) -> pa.DataType | None:
    kind = next((type(value) for value in values if value is not None), str)
    return pa.large_string() if kind is str else None
