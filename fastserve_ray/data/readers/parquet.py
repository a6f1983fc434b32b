"""Parquet, one row group after the other; of a row group about a chunk is decoded at a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from fastserve_ray.data.bad_rows import UnusableFileError
from fastserve_ray.data.files import file_errors
from fastserve_ray.data.readers.table import FileRows, numbered_from, require_columns, rows_in_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fastserve_ray.data.bad_rows import BadRows
    from fastserve_ray.data.files import SourceFile

_BUFFER_BYTES = 2**20
"""Read ahead of a column; without it pyarrow reads whole column chunks."""


def read(file: SourceFile, columns: Mapping[str, str], bad: BadRows, key: str) -> Iterator[FileRows]:
    """Only the asked columns are read. A row group that cannot be read is a part of the file that is bad."""
    with file.open_seekable(key) as stream:
        parquet = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        schema = parquet.schema_arrow
        require_columns(columns, schema.names, file.uri)
        names = _label_names(schema, columns["label"]) if "label" in columns else None
        first = 1
        for group in range(parquet.num_row_groups):
            count, done = parquet.metadata.row_group(group).num_rows, 0
            try:
                for table in _tables(file, parquet, group, list(columns.values()), key):
                    yield FileRows(file.uri, table, numbered_from(first + done, table.num_rows), label_names=names)
                    done += table.num_rows
            except UnusableFileError as error:
                bad.add_part(file.uri, f"rows {first + done} to {first + count - 1}", count - done, error)
            first += count
            file.position.move_to(file.size * first // max(1, parquet.metadata.num_rows))


def _tables(file: SourceFile, parquet: pq.ParquetFile, group: int, columns: list[str], key: str) -> Iterator[pa.Table]:
    """The rows of a group."""
    described = parquet.metadata.row_group(group)
    size = rows_in_chunk(described.num_rows, described.total_byte_size)
    with file_errors(file.uri, key):
        for batch in parquet.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
            yield pa.Table.from_batches([batch]).select(columns)


def _label_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Class names that Hugging Face ``datasets`` writes into the schema's metadata for a ``ClassLabel``."""
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = described["info"]["features"][column]
        return tuple(str(name) for name in feature["names"]) if feature["_type"] == "ClassLabel" else None
    except (ValueError, KeyError, TypeError):
        return None
