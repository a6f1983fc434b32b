"""A token bucket: an allowance that refills evenly and holds at most one minute's worth.

Not from a library: those that are kept (``limits``) count hits that have happened, while here an estimate is taken
first and put right when the answer's tokens are known, which may even leave a debt.
"""

from __future__ import annotations

from dataclasses import dataclass

PERIOD_S = 60.0


@dataclass(frozen=True)
class Left:
    """What is left of an allowance."""

    limit: int
    """A minute."""
    remaining: int
    reset_s: float
    """Until it is whole again."""


class Bucket:
    """Pure: time comes in as ``now``, seconds on any clock that does not go back.

    Args:
        limit: what it holds, and what flows in within a minute.
        level: what it held at ``now``; default: all.
    """

    def __init__(self, limit: int, now: float, level: float | None = None) -> None:
        self.limit = limit
        self._level = float(limit) if level is None else level
        self._at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` can be taken; 0: at once, infinite: never, for it holds less."""
        if amount > self.limit:
            return float("inf")
        return max(0.0, amount - self._filled(now)) * PERIOD_S / self.limit

    def take(self, amount: float, now: float) -> None:
        """A negative amount gives back."""
        self._level = min(float(self.limit), self._filled(now) - amount)
        self._at = now

    def resize(self, limit: int, now: float) -> None:
        """Another allowance from now on; what was used stays used."""
        used = self.limit - self._filled(now)
        self.limit, self._level, self._at = limit, limit - used, now

    def level(self, now: float) -> float:
        """What can be taken; negative: a debt."""
        return self._filled(now)

    def left(self, now: float) -> Left:
        level = self._filled(now)
        return Left(self.limit, max(0, int(level + 1e-6)), (self.limit - level) * PERIOD_S / self.limit)

    def _filled(self, now: float) -> float:
        return min(float(self.limit), self._level + (now - self._at) * self.limit / PERIOD_S)
