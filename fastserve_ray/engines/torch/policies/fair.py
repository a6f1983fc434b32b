"""Weighted fair shares by key: the virtual token counter (Sheng et al., arXiv 2401.00588).

Each key has a counter of the service it was given, divided by its weight; the key with the smallest is served first.
A key that comes back from idle is lifted to the smallest counter of those who are here, so that nobody saves up
service by being away. Within a key, first come, first served.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fastserve_ray.engines.torch.policies.bound import PreemptionBound

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fastserve_ray.engines.torch.policies.protocol import Job, JobT
    from fastserve_ray.engines.torch.profile import Profile
    from fastserve_ray.spec.serve import SchedulerSpec


class Fair:
    """Serves keys in proportion to their weights, whatever each of them asks for.

    Args:
        spec: ``weights`` by key, those of their requests for keys not named; ``max_preemptions`` as for every policy.
        profile: the model's measured speed: service is seconds, so that a long prompt counts as what it costs.
    """

    def __init__(self, spec: SchedulerSpec, profile: Profile) -> None:
        self._weights = dict(spec.weights)
        self._bound = PreemptionBound(spec.max_preemptions)
        self._profile = profile
        self._counters: dict[str, float] = {}
        """Seconds of service over weight, of the keys that are here."""
        self._num_jobs: Counter[str] = Counter()
        self._last_served = 0.0
        """The smallest counter when the last key left: where the next one begins."""

    def counter(self, key: str) -> float:
        """Seconds of service over weight that ``key`` was given; 0 for one that is not here."""
        return self._counters.get(key, 0.0)

    def add(self, job: Job, now: float) -> None:
        key = job.share_key
        if not self._num_jobs[key]:
            floor = min(self._counters.values(), default=self._last_served)
            self._counters[key] = floor
        self._num_jobs[key] += 1

    def charge(self, job: Job, num_tokens: int, now: float) -> None:
        if job.share_key in self._counters:
            service = self._profile.service_seconds(num_tokens)
            self._counters[job.share_key] += service / self._weight(job)

    def remove(self, job: Job) -> None:
        self._bound.remove(job)
        key = job.share_key
        self._num_jobs[key] -= 1
        if not self._num_jobs[key]:
            del self._num_jobs[key]
            self._last_served = max(self._last_served, self._counters.pop(key))

    def order(self, jobs: Collection[JobT], now: float) -> list[JobT]:
        """Jobs of different keys alternate: the second job of a key stands behind the first ones of keys whose counters
        would be smaller than its own after the first had a step."""
        self._bound.note(jobs)
        ahead: Counter[str] = Counter()
        ranks: dict[str, tuple[int, int, float, int]] = {}
        for job in sorted(jobs, key=lambda job: (self._bound.turn(job) is None, job.arrival)):
            key = job.share_key
            turn = self._bound.turn(job)
            step = ahead[key] * self._profile.decode_seconds / self._weight(job)
            ahead[key] += 1
            place = self._counters[key] + step if turn is None else turn
            ranks[job.request_id] = (-job.priority, int(turn is None), place, job.arrival)
        return sorted(jobs, key=lambda job: ranks[job.request_id])

    def _weight(self, job: Job) -> float:
        return self._weights.get(job.share_key, job.share_weight)

    def next_times(self, ordered: Sequence[JobT], now: float) -> list[float]:
        """Each after all before it have had a step."""
        return [at * self._profile.decode_seconds for at, _ in enumerate(ordered)]
