"""The readers by format, and what they share."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import DataError
from fastserve_ray.lazy import LazyTable

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from fastserve_ray.data.files import SourceFile

READERS = LazyTable(
    "file format",
    "data.train.format",
    {
        "parquet": "fastserve_ray.data.readers.parquet:read",
        "jsonl": "fastserve_ray.data.readers.jsonl:read",
        "csv": "fastserve_ray.data.readers.csv:read",
        "text": "fastserve_ray.data.readers.text:read",
    },
)

SHOWN_PLACES = 3
"""Broken rows that a message lists."""


@dataclass(frozen=True)
class FileRows:
    """Rows of one file."""

    file: str
    table: pa.Table
    """The columns that were asked for, in that order, as the file has them."""
    unit: str = "row"
    """What people count in such a file: "row" or "line"."""
    numbers: NDArray[Any] | None = None
    """Number of each row in ``unit``; None: the first row is 1, and so on."""
    label_names: tuple[str, ...] | None = None
    """Names of integer labels, where the file carries them."""

    def place(self, index: int) -> str:
        """``reviews.csv row 3``."""
        number = index + 1 if self.numbers is None else int(self.numbers[index])
        return f"{self.file} {self.unit} {number}"


Reader = Callable[["SourceFile", Sequence[str], "int | None", str], FileRows]
"""File, columns, how many rows at most, and the key of the source for messages (``data.train``).

Raises DataError: the file cannot be read, or a column is missing.
"""


def missing_column(column: str, known: Sequence[str], file: str, key: str) -> DataError:
    """The error that names the nearest column."""
    near = difflib.get_close_matches(column, known, n=1)
    return DataError(
        f"{file} has no column {column!r}",
        value=column,
        allowed=", ".join(known) or "the file has no columns",
        key=key,
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


def broken_rows(problems: Sequence[str], count: int, key: str, hint: str | None = None) -> DataError:
    """The error about rows that cannot be used.

    Args:
        problems: the first few, each with its place.
        count: of all.
    """
    shown = "; ".join(problems[:SHOWN_PLACES])
    more = f"; and {count - SHOWN_PLACES} more" if count > SHOWN_PLACES else ""
    return DataError(
        f"{count} row{'s' if count != 1 else ''} cannot be used",
        value=shown + more,
        key=key,
        hint=hint or "correct or delete them; nothing was left out",
    )
