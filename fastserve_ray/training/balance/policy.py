"""When shares of a batch change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.training.balance.shares import Shares, best_shares, step_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.training.balance.fit import Line

WORTHWHILE = 0.05
"""Predicted gain in throughput from which shares change; below, noise would move them back and forth."""
EVERY_STEPS = 8
"""Steps between two looks."""


@dataclass(frozen=True)
class Change:
    """New shares and why."""

    shares: Shares
    gain: float
    """Predicted: throughput after over throughput before, less one."""
    seconds_before: float
    """Predicted time of a step with the shares so far."""
    seconds_after: float


def propose(lines: Sequence[Line], shares: Shares, *, overhead: float = 0.0) -> Change | None:
    """Better shares, where they pay.

    Args:
        lines: time of each worker's passes by its rows.
        shares: those so far.
        overhead: seconds of a step that do not depend on shares: exchange and update.
    """
    wanted = best_shares(lines, sum(shares))
    before, after = (overhead + step_seconds(lines, rows) for rows in (shares, wanted))
    gain = before / after - 1
    return Change(wanted, gain, before, after) if gain > WORTHWHILE else None
