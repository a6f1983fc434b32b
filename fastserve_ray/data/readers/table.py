"""The readers by format, and what they share."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastserve_ray.data.bad_rows import UnusableFileError
from fastserve_ray.lazy import LazyTable

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from fastserve_ray.data.bad_rows import BadRows
    from fastserve_ray.data.files import SourceFile

READERS = LazyTable(
    "file format",
    "data.train.format",
    {
        "parquet": "fastserve_ray.data.readers.parquet:read",
        "arrow": "fastserve_ray.data.readers.arrow:read",
        "jsonl": "fastserve_ray.data.readers.jsonl:read",
        "csv": "fastserve_ray.data.readers.csv:read",
        "text": "fastserve_ray.data.readers.text:read",
    },
)

CHUNK_BYTES = 2**20
"""About how much of a file is in memory at a time; a longer row is read whole."""
CHUNK_ROWS = 16_384


@dataclass(frozen=True)
class FileRows:
    """Some rows of one file, in its order."""

    file: str
    table: pa.Table
    """The columns that were asked for, in that order, as the file has them."""
    numbers: NDArray[Any]
    """Number of each row in ``unit``; the first of a file is 1."""
    unit: str = "row"
    """What people count in such a file: "row" or "line"."""
    label_names: tuple[str, ...] | None = None
    """Names of integer labels, where the file carries them."""
    is_spelled: bool = False
    """Labels are the characters of a file without types, and may mean integers or booleans."""


Reader = Callable[["SourceFile", Mapping[str, str], "BadRows", str], Iterator[FileRows]]
"""File, columns by role (``text`` first), what cannot be used, and the key of the source for messages
(``data.train``). Yields about ``CHUNK_BYTES`` at a time.

Raises:
    UnusableFileError: the file is damaged, or a column is missing.
    DataError: the file cannot be reached.
"""


def missing_column(column: str, known: Sequence[str], file: str, role: str) -> UnusableFileError:
    """The error that names the nearest column."""
    near = difflib.get_close_matches(column, known, n=1)
    return UnusableFileError(
        f"{file} has no column {column!r}",
        value=column,
        allowed=", ".join(known) or "the file has no columns",
        key=f"data.columns.{role}",
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


def require_columns(columns: Mapping[str, str], known: Sequence[str], file: str) -> None:
    """Raise for the first column that is not there."""
    for role, column in columns.items():
        if column not in known:
            raise missing_column(column, known, file, role)


def rows_in_chunk(num_rows: int, num_bytes: int) -> int:
    """How many rows of a table of this size make a chunk."""
    return max(1, min(CHUNK_ROWS, CHUNK_BYTES * num_rows // max(1, num_bytes)))


def numbered_from(first: int, count: int) -> NDArray[np.int64]:
    """``first``, ``first + 1``, ..."""
    return np.arange(first, first + count, dtype=np.int64)
