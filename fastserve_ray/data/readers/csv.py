"""CSV with a header line, comma or (``.tsv``) tab separated, UTF-8; quoted values may hold line breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import csv

from fastserve_ray.data.readers.table import FileRows, broken_rows, missing_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.data.files import SourceFile


def read(file: SourceFile, columns: Sequence[str], max_rows: int | None, key: str) -> FileRows:
    """The text column is text whatever it looks like; a label column may be integers, booleans or text.

    Rows are counted without the header.
    """
    text, *label = columns
    problems: list[str] = []

    def note(row: Any) -> str:
        problems.append(f"{file.uri} row {row.number - 1} has {row.actual_columns} values, not {row.expected_columns}")
        return "skip"

    with file.open_stream(key) as stream:
        table = csv.read_csv(
            stream,
            read_options=csv.ReadOptions(use_threads=False),
            parse_options=csv.ParseOptions(
                delimiter="\t" if file.name.endswith(".tsv") else ",",
                newlines_in_values=True,
                invalid_row_handler=note,
            ),
            convert_options=csv.ConvertOptions(column_types={text: pa.large_string()}),
        )
    if problems:
        raise broken_rows(problems, len(problems), f"{key}.path", "values that hold a comma or a quote need quotes")
    for role, column in zip(("text", "label"), (text, *label), strict=False):
        if column not in table.column_names:
            raise missing_column(column, table.column_names, file.uri, f"data.columns.{role}")
    return FileRows(file.uri, table.select(list(columns)).slice(0, max_rows))
