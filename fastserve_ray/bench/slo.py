"""What a user calls fast enough: ``ttft=200ms,tpot=50ms,jct=10s``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.bench.records import Record

NAMES = ("ttft", "tpot", "jct")
UNITS = {"ms": 0.001, "s": 1.0, "": 0.001}
"""Seconds; a number without a unit counts milliseconds, as in vLLM's benchmark."""


def parse_slo(text: str) -> dict[str, float]:
    """Limits in seconds by name.

    Raises:
        UsageError: not of the form ``NAME=TIME,...``.
    """
    limits = {}
    for part in text.split(","):
        name, _, limit = part.strip().partition("=")
        seconds = _seconds(limit.strip())
        if name not in NAMES or seconds is None:
            raise UsageError(
                "this is no objective",
                value=part,
                allowed=f"NAME=TIME with {', '.join(NAMES)}; for example ttft=200ms,tpot=50ms,jct=10s",
                key="--slo",
            )
        limits[name] = seconds
    return limits


def _seconds(text: str) -> float | None:
    number = text.rstrip("ms")
    unit = text[len(number) :]
    try:
        value = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        return None
    return value if value > 0 and math.isfinite(value) else None


def meets(record: Record, limits: Mapping[str, float]) -> bool:
    """Whether an answered request kept every limit. One with a single token has no TPOT, and keeps any."""
    seconds = {"ttft": record.ttft, "tpot": record.tpot, "jct": record.jct}
    return record.failure is None and all((seconds[name] or 0.0) <= limit for name, limit in limits.items())
