from __future__ import annotations

from typing import Any

import pytest

from fastserve_ray.engines.torch.policies.fair import Fair
from fastserve_ray.spec.serve import SchedulerSpec
from tests.engines.torch.policies.jobs import PROFILE, FakeJob, names


def policy(**spec: Any) -> Fair:
    return Fair(SchedulerSpec.model_validate({"policy": "fair", **spec}), PROFILE)


def serve_steps(fair: Fair, jobs: list[FakeJob], steps: int) -> dict[str, int]:
    """Give one token a step to the first in the order; tokens by key."""
    tokens: dict[str, int] = {}
    for _ in range(steps):
        first = fair.order(jobs, 0.0)[0]
        fair.charge(first, 1, 0.0)
        tokens[first.share_key] = tokens.get(first.share_key, 0) + 1
    return tokens


def added(fair: Fair, *jobs: FakeJob) -> list[FakeJob]:
    for job in jobs:
        fair.add(job, 0.0)
    return list(jobs)


def test_a_key_gets_its_weight_however_many_jobs_it_has() -> None:
    fair = policy(weights={"paid": 3.0})
    many = [FakeJob(f"free{at}", at, share_key="free") for at in range(9)]
    jobs = added(fair, *many, FakeJob("one", 9, share_key="paid"))
    assert serve_steps(fair, jobs, 40) == {"free": 10, "paid": 30}


def test_a_weight_comes_with_the_request_where_the_settings_name_none() -> None:
    fair = policy(weights={"named": 1.0})
    jobs = added(
        fair,
        FakeJob("a", 0, share_key="named", share_weight=9.0),
        FakeJob("b", 1, share_key="paid", share_weight=3.0),
    )
    assert serve_steps(fair, jobs, 40) == {"named": 10, "paid": 30}


def test_a_prompt_counts_as_the_seconds_it_takes() -> None:
    fair = policy()
    prompt = added(fair, FakeJob("a", 0, share_key="long"), FakeJob("b", 1, share_key="short"))[0]
    fair.charge(prompt, 40, 0.0)
    assert fair.counter("long") == pytest.approx(5.0)
    assert fair.counter("short") == 0.0


def test_idleness_saves_nothing_up() -> None:
    fair = policy()
    busy = added(fair, FakeJob("busy", 0, share_key="busy"))
    serve_steps(fair, busy, 100)
    jobs = added(fair, FakeJob("back", 1, share_key="back")) + busy
    assert fair.counter("back") == fair.counter("busy") == 100.0
    assert serve_steps(fair, jobs, 20) == {"back": 10, "busy": 10}


def test_who_comes_after_all_have_left_begins_where_they_were() -> None:
    fair = policy()
    job = added(fair, FakeJob("a", 0, share_key="a"))[0]
    fair.charge(job, 1, 0.0)
    fair.remove(job)
    assert fair.counter("a") == 0.0
    added(fair, FakeJob("b", 1, share_key="b"))
    assert fair.counter("b") == 1.0


def test_jobs_of_different_keys_alternate_in_one_order() -> None:
    fair = policy()
    jobs = [FakeJob(name, at, share_key=name[0]) for at, name in enumerate(("a0", "a1", "a2", "b0"))]
    assert names(fair.order(added(fair, *jobs), 0.0)) == ["a0", "b0", "a1", "a2"]


def test_priority_and_bounded_preemptions_stand_above_shares() -> None:
    fair = policy(max_preemptions=1)
    jobs = added(
        fair,
        FakeJob("new", 0, share_key="a"),
        FakeJob("tired", 1, share_key="b", num_preemptions=1),
        FakeJob("urgent", 2, share_key="b", priority=5),
    )
    fair.charge(jobs[1], 1, 0.0)
    assert names(fair.order(jobs, 0.0)) == ["urgent", "tired", "new"]
