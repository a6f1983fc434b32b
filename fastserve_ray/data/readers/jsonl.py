"""JSON Lines: one object a line, UTF-8; empty lines are skipped. Read line by line, so that errors name the line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fastserve_ray.data.readers.table import SHOWN_PLACES, FileRows, broken_rows, missing_column
from fastserve_ray.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.data.files import SourceFile

_KINDS = {str: "text", bool: "a boolean", int: "an integer", float: "a number", list: "a list", dict: "an object"}


def read(file: SourceFile, columns: Sequence[str], max_rows: int | None, key: str) -> FileRows:
    """A key that some objects lack is null there; one that all lack is a missing column."""
    values: list[list[Any]] = [[] for _ in columns]
    numbers: list[int] = []
    known: dict[str, None] = {}
    problems: list[str] = []
    with file.open_lines(key) as lines:
        for number, line in enumerate(lines, start=1):
            if max_rows is not None and len(numbers) >= max_rows:
                break
            if not line.strip():
                continue
            row = _parse(line, number, problems)
            if row is None:
                continue
            known.update(dict.fromkeys(row))
            numbers.append(number)
            for column, seen in zip(columns, values, strict=True):
                seen.append(row.get(column))
    if problems:
        shown = [f"{file.uri} {problem}" for problem in problems[:SHOWN_PLACES]]
        raise broken_rows(shown, len(problems), f"{key}.path", "JSON Lines has one object on each line")
    for role, column in zip(("text", "label"), columns, strict=False):
        if numbers and column not in known:
            raise missing_column(column, list(known), file.uri, f"data.columns.{role}")
    arrays = {column: _array(seen, column, file, numbers) for column, seen in zip(columns, values, strict=True)}
    return FileRows(file.uri, pa.table(arrays), "line", np.asarray(numbers, dtype=np.int64))


def _parse(line: bytes, number: int, problems: list[str]) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError as error:
        problems.append(f"line {number} is not JSON ({error})")
        return None
    if not isinstance(row, dict):
        problems.append(f"line {number} is {_KINDS.get(type(row), 'null')}, not an object")
        return None
    return row


def _array(values: list[Any], column: str, file: SourceFile, numbers: Sequence[int]) -> pa.Array:
    """One type for a column: the first row's; any other is an error that names the line."""
    kind = next((type(value) for value in values if value is not None), str)
    for number, value in zip(numbers, values, strict=True):
        if value is not None and type(value) is not kind:
            raise DataError(
                f"column {column!r} of {file.uri} mixes types",
                value=f"line {number}: {value!r:.60} is {_KINDS[type(value)]}",
                allowed=f"{_KINDS[kind]}, as in the lines before",
                key="data.columns",
            )
    if kind in (list, dict):
        return pa.array([None if value is None else json.dumps(value) for value in values], pa.large_string())
    return pa.array(values, type=pa.large_string() if kind is str else None)
