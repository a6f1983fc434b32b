"""Jobs by hand, and a server of one job at a time with a fake clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.engines.torch.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.engines.torch.policies.protocol import Policy

PROFILE = Profile(prefill=((10, 2.0), (110, 12.0)), decode_seconds=1.0)
"""A token takes a second; a prompt of n takes 1 + n / 10 seconds."""


@dataclass
class FakeJob:
    """What a policy sees of a completion; changed by the test."""

    request_id: str
    arrival: int = 0
    arrived_at: float = 0.0
    priority: int = 0
    share_key: str = ""
    share_weight: float = 1.0
    expected_tokens: int | None = None
    max_tokens: int = 1000
    num_prompt_tokens: int = 1
    num_computed_tokens: int = 0
    num_completion_tokens: int = 0
    num_preemptions: int = 0
    is_resident: bool = False


def names(jobs: list[FakeJob]) -> list[str]:
    return [job.request_id for job in jobs]


@dataclass
class Load:
    """A job, when it comes and how many tokens it will have."""

    job: FakeJob
    length: int


def serve(
    policy: Policy, loads: list[Load], *, check: Callable[[list[FakeJob], list[FakeJob], float], None] | None = None
) -> list[str]:
    """Serve one job a step, always the policy's first, until all have ended; the order in which they end.

    ``check`` is called with those that are here, their order and the time.
    """
    to_come = sorted(loads, key=lambda load: load.job.arrived_at)
    lengths = {load.job.request_id: load.length for load in loads}
    here: list[FakeJob] = []
    ended: list[str] = []
    last: FakeJob | None = None
    now = 0.0
    while to_come or here:
        if not here:
            now = max(now, to_come[0].job.arrived_at)
        while to_come and to_come[0].job.arrived_at <= now:
            here.append(to_come.pop(0).job)
            policy.add(here[-1], now)
        ordered = policy.order(here, now)
        if check is not None:
            check(here, ordered, now)
        first = ordered[0]
        if last is not None and last is not first and last in here:
            last.num_preemptions += 1
        now += _step(policy, first, now)
        last = first
        if first.num_completion_tokens == lengths[first.request_id]:
            policy.remove(first)
            here.remove(first)
            ended.append(first.request_id)
    return ended


def _step(policy: Policy, job: FakeJob, now: float) -> float:
    """Read what is unread and add a token; the seconds that it takes."""
    num_tokens = max(1, job.num_prompt_tokens - job.num_computed_tokens)
    seconds = PROFILE.service_seconds(num_tokens)
    job.num_computed_tokens += num_tokens
    job.num_completion_tokens += 1
    job.is_resident = True
    policy.charge(job, num_tokens, now + seconds)
    return seconds
