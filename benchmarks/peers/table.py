"""Results of rounds to the rows of the table."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.common import Figure
    from benchmarks.peers.process import Result


@dataclass
class Measured:
    """What was measured of one engine."""

    precision: str
    is_ours: bool
    versions: dict[str, str] = field(default_factory=dict)
    failure: str | None = None
    ready_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    batches: list[list[Result]] = field(default_factory=list)
    singles: list[Result] = field(default_factory=list)
    idle_share: float = 0.0
    """Processor time while others ran, as a share of that time on one core."""

    @property
    def batch_speed(self) -> float:
        """Median of the rounds, tokens a second."""
        return statistics.median(map(batch_speed, self.batches))

    @property
    def mean_completion_seconds(self) -> float:
        """Until a request is done (JCT), mean of the requests, median of the rounds."""
        return statistics.median(statistics.fmean(result.seconds for result in batch) for batch in self.batches)

    @property
    def decode_speed(self) -> float:
        """Median of the rounds, tokens a second."""
        return statistics.median(map(decode_speed, self.singles))


def batch_speed(batch: Sequence[Result]) -> float:
    """Tokens a second over all requests, until the last is done."""
    return sum(len(result.tokens) for result in batch) / max(result.seconds for result in batch)


def decode_speed(single: Result) -> float:
    """Tokens a second of one request alone, after its first token."""
    return (len(single.tokens) - 1) / (single.seconds - single.first)


def agreement(result: Sequence[Result], reference: Sequence[Result]) -> float:
    """Share of the tokens, over all requests, before the first that differs."""
    pairs = [(mine.tokens, its.tokens) for mine, its in zip(result, reference, strict=True)]
    return sum(_common_prefix(mine, its) for mine, its in pairs) / sum(len(its) for _, its in pairs)


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for at, (mine, its) in enumerate(zip(first, second, strict=True)):
        if mine != its:
            return at
    return len(first)


def table_rows(measured: Mapping[str, Measured]) -> list[dict[str, Figure]]:
    """One row for each engine.

    The ratios divide by the best peer: for float32 by the best in float32, for all else by the best of any precision.
    """
    reference = next((one for one in measured.values() if one.failure is None and one.precision == "fp32"), None)
    rows: list[dict[str, Figure]] = []
    for name, one in measured.items():
        if one.failure is not None:
            rows.append({"engine": name, "note": f"did not run: {one.failure}"})
            continue
        rivals = _rivals(one, measured)
        rows.append(
            {
                "engine": name,
                "batch tok/s": round(one.batch_speed, 1),
                "/ best peer": _ratio(one.batch_speed, [rival.batch_speed for rival in rivals]),
                "mean JCT s": round(one.mean_completion_seconds, 2),
                "decode tok/s": round(one.decode_speed, 1),
                "decode / best peer": _ratio(one.decode_speed, [rival.decode_speed for rival in rivals]),
                "ready s": round(statistics.median(one.ready_seconds), 1),
                "peak PSS MiB": round(one.peak_bytes / 2**20) or None,
                "same tokens": None if reference is None else f"{agreement(one.batches[0], reference.batches[0]):.0%}",
                "idle CPU": f"{one.idle_share:.1%}",
            }
        )
    return rows


def _rivals(one: Measured, measured: Mapping[str, Measured]) -> list[Measured]:
    """The peers that an engine is compared with."""
    return [
        peer
        for peer in measured.values()
        if not peer.is_ours and peer.failure is None and (one.precision != "fp32" or peer.precision == "fp32")
    ]


def _ratio(value: float, others: Sequence[float]) -> float | None:
    return round(value / max(others), 2) if others else None


def all_versions(measured: Mapping[str, Measured]) -> str:
    """Of the packages that ran."""
    versions = {name: number for one in measured.values() for name, number in one.versions.items()}
    return ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
