"""A worker's time as a line over its number of rows."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from statistics import median

WINDOW = 32
"""Observations that are kept for each number of rows."""


@dataclass(frozen=True)
class Line:
    """t(n) = a + b n, in seconds; a is not negative and b is positive."""

    a: float
    b: float

    def __call__(self, rows: float) -> float:
        return self.a + self.b * rows


class Observations:
    """Step times of one worker. Medians keep out the steps in which the machine did something else."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))

    def add(self, rows: int, seconds: float) -> None:
        """One step; without rows it tells nothing."""
        if rows > 0 and seconds > 0:
            self._seconds[rows].append(seconds)

    def line(self) -> Line | None:
        """Least squares through the medians, weighted by how many steps each stands for; through zero where only one
        number of rows was seen, or where noise would make a constant or a slope negative. None before the first."""
        points = [(float(rows), median(seconds), float(len(seconds))) for rows, seconds in self._seconds.items()]
        if not points:
            return None
        return _with_constant(points) or Line(0.0, _slope_through_zero(points))


def _with_constant(points: list[tuple[float, float, float]]) -> Line | None:
    total = sum(weight for _, _, weight in points)
    mean_rows = sum(rows * weight for rows, _, weight in points) / total
    mean_seconds = sum(seconds * weight for _, seconds, weight in points) / total
    spread = sum(weight * (rows - mean_rows) ** 2 for rows, _, weight in points)
    if spread == 0:
        return None
    slope = sum(weight * (rows - mean_rows) * (seconds - mean_seconds) for rows, seconds, weight in points) / spread
    constant = mean_seconds - slope * mean_rows
    return Line(constant, slope) if slope > 0 and constant >= 0 else None


def _slope_through_zero(points: list[tuple[float, float, float]]) -> float:
    return sum(rows * seconds * weight for rows, seconds, weight in points) / sum(
        rows * rows * weight for rows, _, weight in points
    )
