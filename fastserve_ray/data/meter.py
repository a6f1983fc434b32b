"""How fast data is prepared, added to what is reported."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.events.progress import Progress


class Meter:
    """A ``Progress`` that adds rows and megabytes of text per second, and the time left.

    Args:
        progress: who listens.
        clock: seconds, for tests.
    """

    def __init__(self, progress: Progress, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._begin()

    def begin(self, message: str) -> None:
        """Another phase."""
        self._begin()
        self._progress(step=0, total=None, message=message)

    def _begin(self) -> None:
        self._started = self._clock()
        self._num_rows = 0
        self._num_bytes = 0

    def read(self, num_rows: int, num_bytes: int, done: int, total: int) -> None:
        """A chunk was read.

        Args:
            num_rows: in it.
            num_bytes: of its texts.
            done: bytes of the files so far.
            total: bytes of all files.
        """
        self.add(num_rows, num_bytes)
        seconds = self._clock() - self._started
        left = seconds * (total - done) / done if 0 < done <= total else None
        self._progress(step=self._num_rows, total=None, message="reading", seconds_left=left, **self.rates())

    def add(self, num_rows: int, num_bytes: int) -> None:
        """Rows and text that went through."""
        self._num_rows += num_rows
        self._num_bytes += num_bytes

    def rates(self) -> dict[str, float]:
        """``rows_per_second`` and ``mb_per_second`` since the phase began."""
        seconds = max(self._clock() - self._started, 1e-9)
        return {"rows_per_second": self._num_rows / seconds, "mb_per_second": self._num_bytes / seconds / 1e6}

    def __call__(self, *, step: int, total: int | None, **fields: float | str | None) -> None:
        self._progress(step=step, total=total, **fields, **self.rates())
