"""What every policy owes, on random loads: it serves all, loses nobody, and bounds preemptions."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fastserve_ray.engines.torch.policies import POLICIES, make_policy
from fastserve_ray.errors import UnknownNameError
from fastserve_ray.spec.serve import POLICY_NAMES, SchedulerSpec
from tests.engines.torch.policies.jobs import PROFILE, FakeJob, Load, names, serve


def random_loads(seed: int, *, count: int = 60) -> list[Load]:
    draw = random.Random(seed)
    now, loads = 0.0, []
    for number in range(count):
        now += draw.expovariate(1 / 12)
        length = min(300, max(1, round(5 * draw.lognormvariate(0, 1.5))))
        job = FakeJob(
            str(number),
            arrival=number,
            arrived_at=now,
            share_key=draw.choice("abc"),
            priority=draw.choice([0, 0, 0, 1]),
            expected_tokens=draw.choice([None, length, 3]),
            num_prompt_tokens=draw.randint(1, 60),
        )
        loads.append(Load(job, length))
    return loads


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", POLICY_NAMES)
def test_serves_all_in_orders_that_are_permutations_by_priority(name: str, seed: int) -> None:
    spec = SchedulerSpec(policy=name, max_preemptions=3)
    policy = make_policy(spec, PROFILE)
    loads = random_loads(seed)

    def check(here: list[FakeJob], ordered: list[FakeJob], now: float) -> None:
        assert Counter(names(ordered)) == Counter(names(here))
        priorities = [job.priority for job in ordered]
        assert priorities == sorted(priorities, reverse=True)
        times = policy.next_times(ordered, now)
        assert len(times) == len(ordered)
        assert times[0] == 0
        assert all(time >= 0 for time in times)

    assert sorted(serve(policy, loads, check=check)) == sorted(load.job.request_id for load in loads)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", POLICY_NAMES)
def test_preemptions_of_a_job_are_bounded(name: str, seed: int) -> None:
    loads = random_loads(seed)
    for load in loads:
        load.job.priority = 0
    serve(make_policy(SchedulerSpec(policy=name, max_preemptions=3), PROFILE), loads)
    assert max(load.job.num_preemptions for load in loads) <= 3


def test_preemptions_happen_at_all() -> None:
    loads = random_loads(0)
    serve(make_policy(SchedulerSpec(policy="skip-join-mlfq"), PROFILE), loads)
    assert sum(load.job.num_preemptions for load in loads) > 0


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_table_has_the_name(name: str) -> None:
    assert type(make_policy(SchedulerSpec(policy=name), PROFILE)).__module__.startswith(
        "fastserve_ray.engines.torch.policies."
    )


def test_names_of_spec_and_table_agree() -> None:
    assert tuple(POLICIES) == POLICY_NAMES


def test_a_third_partys_policy_is_made_by_path() -> None:
    path = "fastserve_ray.engines.torch.policies.fcfs:Fcfs"
    assert type(make_policy(SchedulerSpec(policy=path), PROFILE)).__name__ == "Fcfs"
    with pytest.raises(UnknownNameError):
        make_policy(SchedulerSpec.model_construct(policy="fastest"), PROFILE)
