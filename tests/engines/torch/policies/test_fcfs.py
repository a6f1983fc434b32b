from __future__ import annotations

from fastserve_ray.engines.torch.policies import POLICIES, needs_profile
from fastserve_ray.engines.torch.policies.fcfs import Fcfs
from fastserve_ray.spec.serve import SchedulerSpec
from tests.engines.torch.policies.jobs import PROFILE, FakeJob, Load, names, serve


def test_serves_by_arrival_and_priority() -> None:
    jobs = [FakeJob("late", arrival=2), FakeJob("early", arrival=1), FakeJob("urgent", arrival=3, priority=1)]
    assert names(Fcfs(SchedulerSpec(), PROFILE).order(jobs, 0.0)) == ["urgent", "early", "late"]


def test_nobody_is_preempted() -> None:
    loads = [Load(FakeJob(str(at), arrival=at, arrived_at=float(at)), 20 - at) for at in range(10)]
    assert serve(Fcfs(SchedulerSpec(), PROFILE), loads) == [str(at) for at in range(10)]
    assert all(load.job.num_preemptions == 0 for load in loads)


def test_next_times_are_what_those_in_front_may_still_ask_for() -> None:
    jobs = [FakeJob("a", max_tokens=10, num_completion_tokens=4), FakeJob("b", max_tokens=3), FakeJob("c")]
    assert Fcfs(SchedulerSpec(), PROFILE).next_times(jobs, 0.0) == [0.0, 6.0, 9.0]


def test_only_fcfs_needs_no_measured_profile() -> None:
    needing = {name: needs_profile(SchedulerSpec(policy=name)) for name in POLICIES}
    assert needing == {name: name != "fcfs" for name in POLICIES}
