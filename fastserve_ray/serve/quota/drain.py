"""How fast requests end, so that those turned away can be told when to come back."""

from __future__ import annotations

import math
from collections import deque

WINDOW_S = 60.0
MAX_ENDED = 256
MAX_RETRY_AFTER_S = 60
"""A longer wait is not promised: by then replicas may have been added, and clients would give up."""


class Drain:
    """The rate at which requests ended within the last minute. Pure: time comes in as ``now``, seconds."""

    def __init__(self) -> None:
        self._ended: deque[float] = deque(maxlen=MAX_ENDED)

    def note(self, now: float) -> None:
        """A request has ended."""
        self._ended.append(now)

    def per_second(self, now: float) -> float:
        """0 when none has ended."""
        while self._ended and self._ended[0] < now - WINDOW_S:
            self._ended.popleft()
        if not self._ended:
            return 0.0
        return len(self._ended) / max(now - self._ended[0], 1.0)

    def retry_after_s(self, num_ahead: int, now: float) -> int:
        """Whole seconds until ``num_ahead`` requests will have ended; at least 1."""
        rate = self.per_second(now)
        if rate == 0.0:
            return MAX_RETRY_AFTER_S if num_ahead > 1 else 1
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(num_ahead / rate)))
