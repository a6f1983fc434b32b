"""The shared-prefix trace (Mooncake, FAST 2025): each request's prompt as hashes of its blocks of 512 tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

TRACE = "mooncake_synthetic.parquet"
TRACE_BLOCK = 512
"""Tokens that one hash stands for."""


@dataclass(frozen=True)
class TraceRequest:
    at: float
    """Seconds from the start of the trace."""
    blocks: tuple[int, ...]
    """Hashes of the prompt's blocks, the last one not always full."""
    num_completion_tokens: int


def load(folder: Path, num_requests: int | None = None) -> list[TraceRequest]:
    """The first ``num_requests`` of the trace, in order of arrival."""
    table = pq.read_table(folder / TRACE).to_pydict()
    rows = zip(table["timestamp_ms"], table["hash_ids"], table["output_length"], strict=True)
    requests = [TraceRequest(at / 1000, tuple(blocks), max(1, length)) for at, blocks, length in rows if blocks]
    return requests[:num_requests]
