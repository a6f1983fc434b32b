"""The bound on preemptions that all policies share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from fastserve_ray.engines.torch.policies.protocol import Job


class PreemptionBound:
    """Which jobs were made to wait so often that they must not be any more.

    They go in front of all others of their priority, among themselves in the order in which they came there: whoever
    comes there later never overtakes one that runs, so the bound holds.

    Args:
        max_preemptions: after so many a job belongs to them; 0 makes every job run to its end once it was seen.
    """

    def __init__(self, max_preemptions: int) -> None:
        self._max_preemptions = max_preemptions
        self._turns: dict[str, int] = {}
        self._next_turn = 0

    def note(self, jobs: Collection[Job]) -> None:
        """Look at the counts of all ``jobs``; to be called before they are ordered."""
        reached = [job for job in jobs if job.num_preemptions >= self._max_preemptions]
        for job in sorted(reached, key=lambda job: job.arrival):
            if job.request_id not in self._turns:
                self._turns[job.request_id] = self._next_turn
                self._next_turn += 1

    def turn(self, job: Job) -> int | None:
        """The place among those that must not wait; None for the others."""
        return self._turns.get(job.request_id)

    def remove(self, job: Job) -> None:
        """It is finished or cancelled."""
        self._turns.pop(job.request_id, None)
