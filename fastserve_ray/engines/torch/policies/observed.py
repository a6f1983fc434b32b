"""What a policy has seen of the load: how much service completions took, and how often one ended.

Pure: a function of what was reported, in that order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

WINDOW = 256
"""Completions that count; older ones are forgotten, so that a load that changes is followed."""
MIN_COMPLETIONS = 16
"""Fewer say nothing about a distribution."""


class ServiceDistribution:
    """The empirical distribution of X, the seconds of service that a job takes in all.

    Args:
        seconds: at least one, each above 0.
    """

    def __init__(self, seconds: Iterable[float]) -> None:
        self._ascending = sorted(seconds)
        self._sums = [0.0, *accumulate(self._ascending)]

    @property
    def mean(self) -> float:
        """E[X]."""
        return self._sums[-1] / len(self._ascending)

    def mean_residual(self, attained: float) -> float:
        """E[X - a | X > a]: what a job that was given ``attained`` still needs; 0 when none needs more."""
        at = bisect_right(self._ascending, attained)
        num_above = len(self._ascending) - at
        return (self._sums[-1] - self._sums[at]) / num_above - attained if num_above else 0.0


class ObservedLoad:
    """The last `WINDOW` completions."""

    def __init__(self) -> None:
        self._service: deque[float] = deque(maxlen=WINDOW)
        self._ended: deque[float] = deque(maxlen=WINDOW)
        self._distribution: ServiceDistribution | None = None

    def note(self, service_seconds: float, now: float) -> None:
        """A job has ended that was given so much service of its own."""
        self._service.append(service_seconds)
        self._ended.append(now)
        self._distribution = None

    @property
    def distribution(self) -> ServiceDistribution | None:
        """Of the service of jobs; None while too few have ended."""
        if self._distribution is None and len(self._service) >= MIN_COMPLETIONS:
            self._distribution = ServiceDistribution(self._service)
        return self._distribution

    @property
    def completions_per_second(self) -> float | None:
        """None while too few have ended."""
        if len(self._ended) < MIN_COMPLETIONS:
            return None
        elapsed = self._ended[-1] - self._ended[0]
        return (len(self._ended) - 1) / elapsed if elapsed > 0 else None
