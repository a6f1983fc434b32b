"""Traces of arrivals and lengths, in the columns that published ones have.

Azure's LLM inference trace (Patel et al., Splitwise, ISCA 2024), Mooncake's with block hashes (Qin et al., FAST 2025),
BurstGPT's, and tables of lengths alone, for example of ShareGPT. CSV, JSONL or Parquet.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

PROMPT_COLUMNS = ("inputlength", "contexttokens", "prefilltokens", "requesttokens", "prompttokens", "inputtokens")
OUTPUT_COLUMNS = (
    "outputlength",
    "generatedtokens",
    "decodetokens",
    "responsetokens",
    "completiontokens",
    "outputtokens",
)
TIME_COLUMNS = ("timestampms", "timestamp", "arrival", "arrivaltime", "at")
BLOCKS_COLUMN = "hashids"
"""Mooncake's: equal ids at the beginning of two prompts mean equal blocks of 512 tokens."""
BLOCK_TOKENS = 512


@dataclass(frozen=True)
class TraceRow:
    """One request of a trace."""

    at: float | None
    """Seconds from the first one; None where the trace has no times."""
    num_prompt_tokens: int
    num_completion_tokens: int
    blocks: tuple[int, ...] = ()
    """Names of the prompt's blocks of ``BLOCK_TOKENS``."""


def read_trace(path: Path, *, limit: int | None = None) -> list[TraceRow]:
    """The rows with at least one token in and out, by time, or in the file's order where it has none.

    Args:
        limit: read so many at most.

    Raises:
        DataError: no such file, a column is missing, or a value is not a number.
    """
    rows = _rows(path)
    columns = _columns(path, rows[0] if rows else {})
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            found.append(_row(row, columns))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"row {number} of the trace cannot be read ({error})", value=str(path)) from error
    found = [row for row in found if row.num_prompt_tokens > 0 and row.num_completion_tokens > 0]
    if not found:
        raise DataError("the trace has no request with tokens in and out", value=str(path), key="--trace")
    return _from_zero(found)[:limit]


def _rows(path: Path) -> list[dict[str, Any]]:
    """Each row with its columns' names in small letters and without underscores."""
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError("a trace of this kind cannot be read", value=str(path), allowed=", ".join(readers))
    try:
        return [{_plain(name): value for name, value in row.items()} for row in reader(path)]
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"the trace cannot be read ({error})", value=str(path), key="--trace") from error


def _csv_rows(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def _json_rows(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def _parquet_rows(path: Path) -> Iterable[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _columns(path: Path, row: Mapping[str, Any]) -> dict[str, str]:
    """Which column is what: ``prompt``, ``output`` and, where there is one, ``time``."""
    columns = {}
    for role, names in (("prompt", PROMPT_COLUMNS), ("output", OUTPUT_COLUMNS), ("time", TIME_COLUMNS)):
        present = [name for name in names if name in row]
        if present:
            columns[role] = present[0]
        elif role != "time":
            raise DataError(
                f"the trace has no column for the length of the {role}",
                value=f"{path}: {', '.join(row) or 'no columns'}",
                allowed=", ".join(names) + " (case and underscores do not matter)",
                key="--trace",
            )
    return columns


def _row(row: Mapping[str, Any], columns: Mapping[str, str]) -> TraceRow:
    blocks = tuple(int(block) for block in row.get(BLOCKS_COLUMN) or ())
    at = None
    if "time" in columns:
        at = _seconds(row[columns["time"]], in_ms=columns["time"] == "timestampms" or BLOCKS_COLUMN in row)
    return TraceRow(at, int(float(row[columns["prompt"]])), int(float(row[columns["output"]])), blocks)


def _seconds(value: Any, *, in_ms: bool) -> float:
    try:
        number = float(value)
    except (ValueError, TypeError):
        text = str(value)
        # Azure tells seven digits after the point; Python reads six.
        head, point, digits = text.partition(".")
        return datetime.fromisoformat(head + point + digits[:6] if digits.isdigit() else text).timestamp()
    return number / 1000 if in_ms else number


def _from_zero(rows: list[TraceRow]) -> list[TraceRow]:
    timed = [row for row in rows if row.at is not None]
    if len(timed) < len(rows):
        return rows
    ordered = sorted(rows, key=lambda row: row.at or 0.0)
    start = ordered[0].at or 0.0
    return [
        TraceRow((row.at or 0.0) - start, row.num_prompt_tokens, row.num_completion_tokens, row.blocks)
        for row in ordered
    ]
