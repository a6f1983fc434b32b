"""Texts for ``fastserve predict``: from flags, a file or standard input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TEXT_COLUMNS = ("prompt", "text", "sentence", "input")
"""Columns that hold the text when none is named, in this order."""


def read_texts(texts: Sequence[str], source: str | None, column: str | None) -> list[str]:
    """Args:
        texts: given by flag.
        source: a .jsonl, .csv, .parquet or text file (a line is a text), or ``-`` for lines on standard input.
        column: of a file with columns.

    Raises:
        UsageError: neither or nothing was given.
        DataError: the file cannot be read, or has no such column.
    """
    if not texts and source is None:
        raise UsageError("nothing to predict", allowed="--text TEXT (may be repeated) or --input FILE", key="--text")
    found = [*texts, *(_read(source, column) if source is not None else [])]
    if not found:
        raise UsageError("the input is empty", value=source, key="--input")
    return found


def _read(source: str, column: str | None) -> list[str]:
    if source == "-":
        import sys

        return _lines(sys.stdin)
    suffix = Path(source).suffix.lower()
    try:
        if suffix in (".csv", ".parquet"):
            return _of_table(source, suffix, column)
        with Path(source).open(encoding="utf-8") as file:
            return [_of_row(line, source, column) for line in _lines(file)] if suffix == ".jsonl" else _lines(file)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the input cannot be read ({error})", value=source, key="--input") from error


def _lines(file: Iterable[str]) -> list[str]:
    return [text for line in file if (text := line.rstrip("\r\n"))]


def _of_row(line: str, source: str, column: str | None) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"a line is not JSON ({error})", value=line[:80], key="--input") from error
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        raise DataError("a line is neither an object nor a text", value=line[:80], key="--input")
    return str(row[_choose(list(row), source, column)])


def _of_table(source: str, suffix: str, column: str | None) -> list[str]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        table = csv.read_csv(source) if suffix == ".csv" else parquet.read_table(source)
    except pa.ArrowInvalid as error:
        raise DataError(f"the input cannot be read ({error})", value=source, key="--input") from error
    return [str(value) for value in table[_choose(table.column_names, source, column)].to_pylist()]


def _choose(columns: Sequence[str], source: str, column: str | None) -> str:
    candidates = TEXT_COLUMNS if column is None else (column,)
    for name in candidates:
        if name in columns:
            return name
    if column is None and len(columns) == 1:
        return columns[0]
    raise DataError(
        f"{source} has no column of texts", value=column, allowed=f"one of {', '.join(columns)}", key="--column"
    )
