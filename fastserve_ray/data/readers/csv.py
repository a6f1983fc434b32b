"""CSV and, with the ending .tsv, tab-separated values; the first row names the columns, quoted values may hold line
breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from fastserve_ray.data.readers.table import FileRows, require_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from fastserve_ray.data.bad_rows import BadRows
    from fastserve_ray.data.files import SourceFile

BLOCK_BYTES = 4 * 2**20
"""Parsed at a time."""


def read(file: SourceFile, columns: Mapping[str, str], bad: BadRows, key: str) -> Iterator[FileRows]:
    """Values come as bytes: what they mean, and whether they are UTF-8, is found out row by row.

    Rows are counted without the header; a row that is longer than ``BLOCK_BYTES`` makes the file unusable.
    """
    numbering = _Numbering()
    names = list(columns.values())

    def note(row: Any) -> str:
        numbering.leave_out(row.number - 1)
        problem = f"has {row.actual_columns} values, not {row.expected_columns}"
        hint = "values that hold a comma or a quote need quotes; data.on_bad_rows: skip leaves such rows out"
        bad.add(file.uri, "row", row.number - 1, problem, key=f"{key}.path", hint=hint)
        return "skip"

    parse = csv.ParseOptions(
        delimiter="\t" if file.name.lower().endswith(".tsv") else ",",
        newlines_in_values=True,
        invalid_row_handler=note,
    )
    read_options = csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
    convert = csv.ConvertOptions(column_types={name: pa.large_binary() for name in names}, check_utf8=False)
    with file.open_stream(key) as stream:
        reader = csv.open_csv(stream, read_options=read_options, parse_options=parse, convert_options=convert)
        require_columns(columns, reader.schema.names, file.uri)
        for batch in reader:
            numbers = numbering.take(batch.num_rows)
            yield FileRows(file.uri, pa.Table.from_batches([batch]).select(names), numbers, is_spelled=True)


class _Numbering:
    """Row numbers of the rows that are left when some have been left out."""

    def __init__(self) -> None:
        self._next = 1
        self._left_out: list[int] = []

    def leave_out(self, number: int) -> None:
        self._left_out.append(number)

    def take(self, count: int) -> NDArray[np.int64]:
        """Numbers of the next ``count`` rows that are there."""
        window: NDArray[np.int64] = np.arange(self._next, self._next + count + len(self._left_out), dtype=np.int64)
        numbers: NDArray[np.int64] = np.setdiff1d(
            window, np.asarray(self._left_out, dtype=np.int64), assume_unique=True
        )[:count]
        if count:
            self._next = int(numbers[-1]) + 1
            self._left_out = [number for number in self._left_out if number >= self._next]
        return numbers
