"""Quanta, joining, demotion, promotion and ENST by hand; see `jobs.PROFILE`: q_1 is a second."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fastserve_ray.engines.torch.policies.observed import MIN_COMPLETIONS
from fastserve_ray.engines.torch.policies.skip_join_mlfq import PROMOTE_FACTOR, SkipJoinMlfq
from fastserve_ray.spec.serve import SchedulerSpec
from tests.engines.torch.policies.jobs import PROFILE, FakeJob, Load, names, serve


def policy(**spec: Any) -> SkipJoinMlfq:
    return SkipJoinMlfq(SchedulerSpec.model_validate({"policy": "skip-join-mlfq", **spec}), PROFILE)


def added(mlfq: SkipJoinMlfq, *jobs: FakeJob) -> list[FakeJob]:
    for job in jobs:
        mlfq.add(job, job.arrived_at)
    return list(jobs)


def give(mlfq: SkipJoinMlfq, job: FakeJob, num_tokens: int, now: float = 0.0) -> None:
    """A step has read so many of its tokens for the first time."""
    job.num_computed_tokens += num_tokens
    mlfq.charge(job, num_tokens, now)


def ended(mlfq: SkipJoinMlfq, lengths: list[int], *, seconds_apart: float = 1.0) -> None:
    """Jobs of so many tokens have ended, at regular times."""
    for at, length in enumerate(lengths):
        job = FakeJob(f"ended {at}", num_completion_tokens=length)
        now = at * seconds_apart
        mlfq.add(job, now)
        for _ in range(length):
            give(mlfq, job, 1, now)
        mlfq.remove(job)


def test_quanta_double_and_the_last_has_no_end() -> None:
    mlfq = policy(num_queues=4)
    assert [mlfq.quantum(level) for level in range(4)] == [1.0, 2.0, 4.0, float("inf")]


@pytest.mark.parametrize(("prompt", "level"), [(1, 1), (10, 1), (11, 2), (30, 2), (31, 3), (70, 3), (100_000, 9)])
def test_joins_the_first_queue_whose_quantum_covers_its_prompt(prompt: int, level: int) -> None:
    # 1 + prompt / 10 seconds against 1, 2, 4, 8, ...; the tenth queue has no end
    mlfq = policy(num_queues=10)
    (job,) = added(mlfq, FakeJob("a", num_prompt_tokens=prompt))
    assert mlfq.level_of(job) == level


def test_moves_down_when_its_own_service_exceeds_the_quantum() -> None:
    mlfq = policy()
    (job,) = added(mlfq, FakeJob("a", num_prompt_tokens=10))
    levels = []
    give(mlfq, job, 10)
    for _ in range(14):
        levels.append(mlfq.level_of(job))
        give(mlfq, job, 1)
    # 2 seconds of prompt fill queue 1 exactly; a token leaves it; queue 2 lasts for 4 seconds, and queue 3 for 8
    assert levels == [1, *[2] * 5, *[3] * 8]


def test_time_that_passes_is_not_charged() -> None:
    mlfq = policy()
    (job,) = added(mlfq, FakeJob("a"))
    give(mlfq, job, 1, 1e6)
    assert mlfq.level_of(job) == 1


def test_tokens_that_are_read_again_are_not_charged() -> None:
    mlfq = policy()
    (job,) = added(mlfq, FakeJob("a", num_prompt_tokens=10))
    give(mlfq, job, 10)
    job.num_computed_tokens = 0
    give(mlfq, job, 10)
    assert mlfq.level_of(job) == 1
    # one of 11 is new, and queue 1 was full
    job.num_computed_tokens = 0
    give(mlfq, job, 11)
    assert mlfq.level_of(job) == 2


def test_a_short_job_overtakes_a_long_one() -> None:
    long, short = FakeJob("long", 0), FakeJob("short", 1, arrived_at=20.0)
    assert serve(policy(), [Load(long, 60), Load(short, 2)]) == ["short", "long"]
    assert long.num_preemptions == 1


def test_promotes_who_was_not_served_for_alpha() -> None:
    mlfq = policy(promote_after_s=10.0)
    deep, fresh = added(mlfq, FakeJob("deep", 0, num_prompt_tokens=70), FakeJob("fresh", 1, num_prompt_tokens=1))
    assert names(mlfq.order([deep, fresh], 10.0)) == ["fresh", "deep"]
    give(mlfq, fresh, 1, 10.0)
    assert names(mlfq.order([deep, fresh], 10.5)) == ["deep", "fresh"]
    assert mlfq.level_of(deep) == 0
    assert mlfq.level_of(fresh) == 1


def test_alpha_is_a_multiple_of_the_time_in_the_system_by_littles_law() -> None:
    mlfq = policy()
    added(mlfq, *(FakeJob(str(at), at) for at in range(6)))
    assert mlfq.promote_after == float("inf")
    ended(mlfq, [2] * MIN_COMPLETIONS, seconds_apart=0.5)
    # 6 jobs are here and 2 end in a second
    assert mlfq.promote_after == pytest.approx(PROMOTE_FACTOR * 3.0)
    assert policy(promote_after_s=7.0).promote_after == 7.0


def test_next_times_are_the_sooner_of_promotion_and_turn() -> None:
    mlfq = policy(promote_after_s=10.0)
    jobs = added(
        mlfq,
        FakeJob("a", 0, num_prompt_tokens=10),
        FakeJob("b", 1, num_prompt_tokens=70),
        FakeJob("c", 2, num_prompt_tokens=70, arrived_at=3.0),
        FakeJob("d", 3, num_prompt_tokens=70, arrived_at=4.0),
    )
    # slices in front: 2 of queue 1, then 8 of queue 3 each; promotion in 10, 10, 13 and 14 seconds, counted from 0
    assert mlfq.next_times(jobs, 4.0) == [0.0, 2.0, 9.0, 10.0]


def test_a_slice_is_no_longer_than_what_a_job_may_still_ask_for() -> None:
    mlfq = policy()
    jobs = added(mlfq, FakeJob("a", 0, num_prompt_tokens=70, max_tokens=3), FakeJob("b", 1))
    assert mlfq.next_times(jobs, 0.0) == [0.0, 3.0]


def test_a_job_that_waited_too_often_goes_in_front_of_all_but_priorities() -> None:
    mlfq = policy(max_preemptions=2)
    jobs = added(
        mlfq,
        FakeJob("fresh", 0),
        FakeJob("tired", 1, num_prompt_tokens=70, num_preemptions=2),
        FakeJob("urgent", 2, num_prompt_tokens=70, priority=1),
    )
    assert names(mlfq.order(jobs, 0.0)) == ["urgent", "tired", "fresh"]


def test_demotes_only_where_completions_are_heavy_tailed() -> None:
    alike, heavy = policy(), policy()
    ended(alike, [8, 9, 10, 11, 12] * 10)
    ended(heavy, [1] * 45 + [200] * 5)
    for seconds in (1.0, 5.0, 11.0):
        assert not alike.demotes(seconds)
        assert heavy.demotes(seconds)
    # nobody was seen to need more: it may as well end
    assert not heavy.demotes(300.0)


def test_an_exponential_load_is_not_heavy_tailed_and_a_lognormal_one_is() -> None:
    draw = random.Random(0)
    exponential, lognormal = policy(), policy()
    ended(exponential, [1 + round(draw.expovariate(1 / 40)) for _ in range(256)])
    ended(lognormal, [1 + round(15 * draw.lognormvariate(0, 1.5)) for _ in range(256)])
    assert not any(exponential.demotes(seconds) for seconds in (5.0, 20.0, 40.0, 80.0))
    assert lognormal.demotes(40.0)
    assert lognormal.demotes(80.0)


def test_on_alike_jobs_it_serves_as_they_come() -> None:
    mlfq = policy()
    ended(mlfq, [10] * MIN_COMPLETIONS)
    loads = [Load(FakeJob(str(at), at, arrived_at=at * 5.0), 10) for at in range(12)]
    assert serve(mlfq, loads) == [str(at) for at in range(12)]
    assert sum(load.job.num_preemptions for load in loads) == 0


def test_on_alike_jobs_the_shortest_prompt_is_let_in_first_and_nobody_is_preempted() -> None:
    mlfq = policy(promote_after_s=1e6)
    ended(mlfq, [10] * MIN_COMPLETIONS)
    prompts = {"first": 30, "long": 100, "short": 2}
    loads = [
        Load(FakeJob(name, at, float(at), num_prompt_tokens=n), 10) for at, (name, n) in enumerate(prompts.items())
    ]
    assert serve(mlfq, loads) == ["first", "short", "long"]
    assert sum(load.job.num_preemptions for load in loads) == 0


def test_cancelled_before_it_ran_says_nothing_about_lengths() -> None:
    mlfq = policy()
    for at in range(2 * MIN_COMPLETIONS):
        (job,) = added(mlfq, FakeJob(str(at)))
        mlfq.remove(job)
    assert mlfq.promote_after == float("inf")
