"""Shortest remaining processing time first.

The best order for the mean time in the system when lengths are known (Schrage 1968): with the lengths that requests
give or a predictor says it shows what could be had; without them the tokens they may ask for stand in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.engines.torch.policies.bound import PreemptionBound

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fastserve_ray.engines.torch.policies.protocol import Job, JobT
    from fastserve_ray.engines.torch.profile import Profile
    from fastserve_ray.spec.serve import SchedulerSpec


class Srpt:
    """Orders jobs by the seconds of service that they still need.

    Args:
        spec: ``max_preemptions`` counts: a job that had to wait so often goes in front.
        profile: the model's measured speed.
    """

    def __init__(self, spec: SchedulerSpec, profile: Profile) -> None:
        self._bound = PreemptionBound(spec.max_preemptions)
        self._profile = profile

    def add(self, job: Job, now: float) -> None:
        """Nothing to remember."""

    def charge(self, job: Job, num_tokens: int, now: float) -> None:
        """Nothing to remember."""

    def remove(self, job: Job) -> None:
        self._bound.remove(job)

    def order(self, jobs: Collection[JobT], now: float) -> list[JobT]:
        self._bound.note(jobs)
        return sorted(jobs, key=self._rank)

    def next_times(self, ordered: Sequence[JobT], now: float) -> list[float]:
        """Each after all before it have ended."""
        times, ahead = [], 0.0
        for job in ordered:
            times.append(ahead)
            ahead += self.remaining_seconds(job)
        return times

    def remaining_seconds(self, job: Job) -> float:
        """Service that ``job`` still needs. One that is longer than it was said to be is expected to end soon."""
        expected = job.max_tokens if job.expected_tokens is None else min(job.expected_tokens, job.max_tokens)
        seconds = max(1, expected - job.num_completion_tokens) * self._profile.decode_seconds
        num_unread = job.num_prompt_tokens - job.num_computed_tokens
        return seconds + (self._profile.prefill_seconds(num_unread) if num_unread > 0 else 0.0)

    def _rank(self, job: Job) -> tuple[int, int, float, int]:
        turn = self._bound.turn(job)
        if turn is not None:
            return (-job.priority, 0, turn, 0)
        return (-job.priority, 1, self.remaining_seconds(job), job.arrival)
