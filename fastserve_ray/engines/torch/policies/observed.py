"""What a policy has seen of the load: how much service completions took, and how often one ended.

Pure: a function of what was reported, in that order.
"""

from __future__ import annotations

from collections import deque
from statistics import fmean, pvariance

WINDOW = 256
"""Completions that count; older ones are forgotten, so that a load that changes is followed."""
MIN_COMPLETIONS = 16
"""Fewer say nothing about a distribution."""


class ObservedLoad:
    """The last `WINDOW` completions."""

    def __init__(self) -> None:
        self._service: deque[float] = deque(maxlen=WINDOW)
        self._ended: deque[float] = deque(maxlen=WINDOW)

    def note(self, service_seconds: float, now: float) -> None:
        """A job has ended that was given so much service of its own."""
        self._service.append(service_seconds)
        self._ended.append(now)

    @property
    def squared_variation(self) -> float | None:
        """Squared coefficient of variation of service (variance over squared mean); None while too few have ended."""
        if len(self._service) < MIN_COMPLETIONS:
            return None
        mean = fmean(self._service)
        return pvariance(self._service, mean) / mean**2 if mean > 0 else 0.0

    @property
    def completions_per_second(self) -> float | None:
        """None while too few have ended."""
        if len(self._ended) < MIN_COMPLETIONS:
            return None
        elapsed = self._ended[-1] - self._ended[0]
        return (len(self._ended) - 1) / elapsed if elapsed > 0 else None
