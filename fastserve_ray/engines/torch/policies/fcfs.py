"""First come, first served."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fastserve_ray.engines.torch.policies.protocol import Job, JobT
    from fastserve_ray.engines.torch.profile import Profile
    from fastserve_ray.spec.serve import SchedulerSpec


class Fcfs:
    """Serves in order of arrival; of larger priority first.

    Simple and free of starvation; a long request ahead delays short ones behind it.
    """

    NEEDS_PROFILE = False
    """Only which of two requests runs later matters, and tokens tell that as well as seconds."""

    def __init__(self, spec: SchedulerSpec, profile: Profile) -> None:
        self._decode_seconds = profile.decode_seconds

    def add(self, job: Job, now: float) -> None:
        """Nothing to remember."""

    def charge(self, job: Job, num_tokens: int, now: float) -> None:
        """Nothing to remember."""

    def remove(self, job: Job) -> None:
        """Nothing to remember."""

    def order(self, jobs: Collection[JobT], now: float) -> list[JobT]:
        return sorted(jobs, key=lambda job: (-job.priority, job.arrival))

    def next_times(self, ordered: Sequence[JobT], now: float) -> list[float]:
        """Each after all before it have had what they may still ask for."""
        times, total = [], 0.0
        for job in ordered:
            times.append(total)
            total += (job.max_tokens - job.num_completion_tokens) * self._decode_seconds
        return times
