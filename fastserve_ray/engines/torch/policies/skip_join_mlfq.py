"""Skip-join multi-level feedback queues: the scheduler of FastServe (Wu et al., arXiv 2305.05920; NSDI'26).

Queue k has the quantum q_k = 2^(k-1) · q_1, and q_1 is the shortest iteration. A job joins the first queue whose
quantum covers its prompt, min{k : q_k >= t_prefill}, since nothing useful comes of a prompt that is half read; it
skips those before. When the service it was given in a queue exceeds the quantum it moves down one. So a job overtakes
those that have had more than it needs, without anybody knowing how long it will be.

Service is a job's own: its tokens at the measured speed, not the time of steps that it shares, and not the tokens that
are read again because their keys and values were given up. A job that has not been served for α seconds moves up to the
first queue. A job that was made to wait ``max_preemptions`` times is not preempted any more: see `bound`.

Making way for newcomers pays only where completions are heavy-tailed. When what a job still needs does not grow with
what it was given, the best order that knows no lengths lets it run to its end (Gittins; Righter and Shanthikumar 1989),
and slices only keep more jobs, with their keys and values, half done. So of the completions seen the policy takes the
mean residual service, E[X - a | X > a], and a job that was given a is demoted only where that is clearly above E[X],
what a newcomer needs: at least `MIN_RESIDUAL` times. An exponential has 1 everywhere; a lognormal with σ = 1.5 has 1.5
at its median and 2.4 at its mean. A job that has begun and is not to be demoted stays in front of all that wait, so on
such loads the shortest prompt is let in first, and nobody is preempted.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from fastserve_ray.engines.torch.policies.bound import PreemptionBound
from fastserve_ray.engines.torch.policies.observed import ObservedLoad

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fastserve_ray.engines.torch.policies.protocol import Job, JobT
    from fastserve_ray.engines.torch.profile import Profile
    from fastserve_ray.spec.serve import SchedulerSpec

MIN_RESIDUAL = 1.5
"""Of E[X]: mean residual service from which on a job makes way. Above 1, what an exponential has, since preemptions and
kept blocks cost too, and since a few hundred completions tell the mean residual only roughly."""
PROMOTE_FACTOR = 2.0
"""α over the mean time in the system. First come, first served makes everybody wait about that mean in an overload.
With a factor of 1 most jobs are promoted and the order is that again; the factor bounds what the slowest lose."""


Rank = tuple[int, int, int, float, int]
"""Smaller is served first."""


@dataclass(slots=True)
class _State:
    level: int
    joined: float
    """When it came to its queue."""
    attained: float = 0.0
    """Service in this queue, seconds."""
    total: float = 0.0
    """Service in all."""
    served_at: float = 0.0
    """When it was served last; before that, when it arrived."""
    num_charged: int = 0
    """Of its first tokens, those that were read once: reading them again is not its doing."""
    waiting_rank: Rank | None = None
    """While it waits for its first token: thousands may, and theirs need not be made anew in every step."""


class SkipJoinMlfq:
    """See the module's text.

    Args:
        spec: ``num_queues``, ``promote_after_s`` (α) and ``max_preemptions`` count.
        profile: the model's measured speed.
    """

    def __init__(self, spec: SchedulerSpec, profile: Profile) -> None:
        self._spec = spec
        self._profile = profile
        self._states: dict[str, _State] = {}
        self._load = ObservedLoad()
        self._bound = PreemptionBound(spec.max_preemptions)

    def demotes(self, attained: float) -> bool:
        """Whether a job that was given ``attained`` seconds in all makes way for others; True until enough have ended
        to tell. See the module's text."""
        seen = self._load.distribution
        return seen is None or seen.mean_residual(attained) >= MIN_RESIDUAL * seen.mean

    @property
    def promote_after(self) -> float:
        """α in seconds: as the spec says; else `PROMOTE_FACTOR` times the mean time in the system by Little's law,
        W = N / λ, of the jobs that are here and the rate at which jobs have ended. Infinite until enough have ended to
        tell."""
        if self._spec.promote_after_s is not None:
            return self._spec.promote_after_s
        rate = self._load.completions_per_second
        return float("inf") if rate is None else PROMOTE_FACTOR * len(self._states) / rate

    def quantum(self, level: int) -> float:
        """Seconds of service in queue ``level``, which counts from 0; the last queue has no end."""
        if level >= self._spec.num_queues - 1:
            return float("inf")
        return float(self._profile.decode_seconds * 2**level)

    def level_of(self, job: Job) -> int:
        """The queue that it is in."""
        return self._states[job.request_id].level

    def add(self, job: Job, now: float) -> None:
        prefill = self._profile.prefill_seconds(job.num_prompt_tokens)
        level = next(level for level in range(self._spec.num_queues) if self.quantum(level) >= prefill)
        self._states[job.request_id] = _State(level, joined=now, served_at=now)

    def charge(self, job: Job, num_tokens: int, now: float) -> None:
        state = self._states.get(job.request_id)
        if state is None:
            return
        state.served_at = now
        num_new = min(num_tokens, job.num_computed_tokens - state.num_charged)
        if num_new <= 0:
            return
        state.num_charged = job.num_computed_tokens
        service = self._profile.service_seconds(num_new)
        state.attained += service
        state.total += service
        if state.attained > self.quantum(state.level) and self.demotes(state.total):
            self._move(state, state.level + 1, now)

    def remove(self, job: Job) -> None:
        self._bound.remove(job)
        state = self._states.pop(job.request_id, None)
        if state is not None and job.num_completion_tokens:
            self._load.note(state.total, state.served_at)

    def order(self, jobs: Collection[JobT], now: float) -> list[JobT]:
        self._bound.note(jobs)
        alpha = self.promote_after
        ranked = []
        for job in jobs:
            state = self._states[job.request_id]
            if state.level > 0 and now - state.served_at > alpha:
                self._move(state, 0, now)
                state.served_at = now
            ranked.append((self._rank(job, state), job))
        ranked.sort(key=itemgetter(0))
        return [job for _, job in ranked]

    def next_times(self, ordered: Sequence[JobT], now: float) -> list[float]:
        """ENST = min(T_promote, T_execute), FastServe's equation 3: when α brings the job up, or when all in front have
        used up the slices that are left to them, whichever is sooner."""
        alpha, times, ahead = self.promote_after, [], 0.0
        for job in ordered:
            state = self._states[job.request_id]
            times.append(min(max(0.0, alpha - (now - state.served_at)), ahead))
            ahead += self._rest_of_slice(job, state)
        return times

    def _rank(self, job: Job, state: _State) -> Rank:
        turn = self._bound.turn(job)
        if turn is not None:
            return (-job.priority, 0, turn, 0.0, 0)
        if state.total > 0:
            if not self.demotes(state.total):
                return (-job.priority, 1, 0, state.joined, job.arrival)
            return (-job.priority, 2, state.level, state.joined, job.arrival)
        if state.waiting_rank is None:
            state.waiting_rank = (-job.priority, 2, state.level, state.joined, job.arrival)
        return state.waiting_rank

    def _rest_of_slice(self, job: Job, state: _State) -> float:
        rest = (job.max_tokens - job.num_completion_tokens) * self._profile.decode_seconds
        return min(rest, max(0.0, self.quantum(state.level) - state.attained))

    @staticmethod
    def _move(state: _State, level: int, now: float) -> None:
        state.level = level
        state.attained = 0.0
        state.joined = now
        state.waiting_rank = None
