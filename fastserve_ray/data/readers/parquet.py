"""Parquet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from fastserve_ray.data.readers.table import FileRows, missing_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.data.files import SourceFile


def read(file: SourceFile, columns: Sequence[str], max_rows: int | None, key: str) -> FileRows:
    """Only the asked columns are read, and of a large file only the row groups that ``max_rows`` needs."""
    with file.open_seekable(key) as stream:
        parquet = pq.ParquetFile(stream)
        known = parquet.schema_arrow.names
        for column in columns:
            if column not in known:
                raise missing_column(column, known, file.uri, f"data.columns.{_role(column, columns)}")
        table = _first_rows(parquet, columns, max_rows)
        names = _label_names(parquet.schema_arrow, columns[-1])
    return FileRows(file.uri, table, label_names=names)


def _role(column: str, columns: Sequence[str]) -> str:
    return "text" if column == columns[0] else "label"


def _first_rows(parquet: pq.ParquetFile, columns: Sequence[str], max_rows: int | None) -> pa.Table:
    if max_rows is None:
        return parquet.read(columns=list(columns)).select(list(columns))
    groups: list[int] = []
    num_rows = 0
    while len(groups) < parquet.num_row_groups and num_rows < max_rows:
        num_rows += parquet.metadata.row_group(len(groups)).num_rows
        groups.append(len(groups))
    return parquet.read_row_groups(groups, columns=list(columns)).select(list(columns)).slice(0, max_rows)


def _label_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Class names that Hugging Face ``datasets`` writes into the schema's metadata for a ``ClassLabel``."""
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = described["info"]["features"][column]
        return tuple(str(name) for name in feature["names"]) if feature["_type"] == "ClassLabel" else None
    except (ValueError, KeyError, TypeError):
        return None
