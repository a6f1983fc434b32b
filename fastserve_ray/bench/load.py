"""Which requests, how long, and when: from a trace or from distributions."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastserve_ray.bench.arrivals import arrival_times, stretched
from fastserve_ray.bench.traces import TraceRow
from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.bench.lengths import Lengths

DEFAULT_REQUESTS = 100


@dataclass(frozen=True)
class Load:
    """What the command line says of the load.

    Exactly one of an open loop (``rate``, or a trace's own times) and a closed one (``users``).
    """

    rate: float | None = None
    """Arrivals a second."""
    arrivals: str | None = None
    """One of `arrivals.KINDS`; None: the trace's own, else ``poisson``."""
    burstiness: float = 1.0
    users: int | None = None
    """A closed loop: each user asks again when answered."""
    think_s: float = 0.0
    """What a user waits before asking again."""
    num_requests: int | None = None
    duration_s: float | None = None
    """No request is sent later than this."""
    max_input: int | None = None
    max_output: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.users is not None and (self.rate is not None or self.arrivals is not None):
            raise UsageError("a closed loop has no rate and no arrivals", key="--users, --rate, --arrivals")

    @property
    def is_closed(self) -> bool:
        return self.users is not None

    def drawn(self, inputs: Lengths, outputs: Lengths) -> list[TraceRow]:
        """Requests with lengths of two distributions."""
        source = random.Random(self.seed)
        rows = [
            TraceRow(None, inputs.draw(source), outputs.draw(source)) for _ in range(self._num_drawn(self.rate or 1.0))
        ]
        return self._timed([self._cut(row) for row in rows])

    def traced(self, rows: Sequence[TraceRow]) -> list[TraceRow]:
        """A trace's requests, its times stretched to ``rate``, or replaced where arrivals are given.

        Raises:
            UsageError: there are no times and no rate.
        """
        has_times = rows[0].at is not None
        if not self.is_closed and not has_times and self.rate is None:
            raise UsageError(
                "this trace has no times", allowed="a rate, or users of a closed loop", key="--rate, --users"
            )
        own_times = has_times and self.arrivals is None
        count = self.num_requests
        if count is None and self.duration_s is not None and self.rate is not None:
            count = self._num_drawn(self.rate)
        chosen = [self._cut(row) for row in rows[:count]]
        if own_times and not self.is_closed:
            return self._within(self._stretched(chosen))
        return self._timed(chosen)

    def _num_drawn(self, rate: float) -> int:
        if self.num_requests is not None:
            return self.num_requests
        if self.duration_s is not None and not self.is_closed:
            return max(1, 2 * round(rate * self.duration_s))  # cut to the duration when the times are drawn
        return DEFAULT_REQUESTS * (self.users or 1)

    def _timed(self, rows: list[TraceRow]) -> list[TraceRow]:
        if self.is_closed:
            return [replace(row, at=None) for row in rows]
        times = arrival_times(
            self.arrivals or "poisson", self.rate or 1.0, len(rows), burstiness=self.burstiness, seed=self.seed
        )
        return self._within([replace(row, at=at) for row, at in zip(rows, times, strict=True)])

    def _stretched(self, rows: list[TraceRow]) -> list[TraceRow]:
        if self.rate is None:
            return rows
        times = stretched([row.at or 0.0 for row in rows], self.rate)
        return [replace(row, at=at) for row, at in zip(rows, times, strict=True)]

    def _within(self, rows: list[TraceRow]) -> list[TraceRow]:
        if self.duration_s is None:
            return rows
        return [row for row in rows if (row.at or 0.0) < self.duration_s]

    def _cut(self, row: TraceRow) -> TraceRow:
        return replace(
            row,
            num_prompt_tokens=min(row.num_prompt_tokens, self.max_input or row.num_prompt_tokens),
            num_completion_tokens=min(row.num_completion_tokens, self.max_output or row.num_completion_tokens),
        )
