"""Collects what workers measure, and agrees on shares."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from fastserve_ray.training.balance.fit import Line, Observations
from fastserve_ray.training.balance.policy import EVERY_STEPS, Change, propose
from fastserve_ray.training.balance.shares import Shares, even_shares

if TYPE_CHECKING:
    from collections.abc import Callable


class Balancer:
    """Belongs to one worker. All workers make the same calls in the same steps, and so have the same shares.

    Args:
        batch_size: rows of a whole batch.
        rank: of this worker among those that share a batch.
        size: how many share it.
        add_up: each value summed over the workers.
    """

    def __init__(self, batch_size: int, rank: int, size: int, add_up: Callable[..., list[float]]) -> None:
        self.shares: Shares = even_shares(batch_size, size)
        self._rank = rank
        self._add_up = add_up
        self._observations = Observations()
        self._overheads: list[float] = []

    def observe(self, rows: int, computing: float, step: float) -> None:
        """One step.

        Args:
            rows: of this worker.
            computing: seconds of its passes, without what it waited for others.
            step: seconds of the whole step.
        """
        self._observations.add(rows, computing)
        self._overheads = [*self._overheads[-EVERY_STEPS:], max(0.0, step - computing)]

    def review(self, step: int) -> Change | None:
        """After ``step`` steps: every ``EVERY_STEPS``, change the shares where that pays."""
        if step % EVERY_STEPS:
            return None
        lines, overheads = self._gather()
        if any(line.b <= 0 for line in lines):  # a worker has had no rows yet
            return None
        change = propose(lines, self.shares, overhead=min(overheads))  # the slowest worker waits for nobody
        if change is not None:
            self.shares = change.shares
        return change

    def restore(self, shares: list[int]) -> None:
        """Go on with the shares of a checkpoint, where as many workers share as large a batch."""
        if len(shares) == len(self.shares) and sum(shares) == sum(self.shares):
            self.shares = tuple(shares)

    def _gather(self) -> tuple[list[Line], list[float]]:
        """Of every worker: its line, and the time of its steps beside the passes."""
        size, own = len(self.shares), self._observations.line() or Line(0.0, 0.0)
        values = [0.0] * (3 * size)
        values[3 * self._rank : 3 * self._rank + 3] = [own.a, own.b, median(self._overheads or [0.0])]
        found = self._add_up(*values)
        lines = [Line(found[3 * rank], found[3 * rank + 1]) for rank in range(size)]
        return lines, [found[3 * rank + 2] for rank in range(size)]
