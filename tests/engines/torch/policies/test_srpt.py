from __future__ import annotations

import pytest

from fastserve_ray.engines.torch.policies.srpt import Srpt
from fastserve_ray.spec.serve import SchedulerSpec
from tests.engines.torch.policies.jobs import PROFILE, FakeJob, Load, names, serve


def policy(**spec: int) -> Srpt:
    return Srpt(SchedulerSpec.model_validate({"policy": "srpt", **spec}), PROFILE)


@pytest.mark.parametrize(
    ("job", "seconds"),
    [
        # prompt of 40: 1 + 40 / 10 seconds; 7 tokens: 7 seconds
        (FakeJob("", num_prompt_tokens=40, expected_tokens=7), 12.0),
        (FakeJob("", num_prompt_tokens=40, num_computed_tokens=40, expected_tokens=7, num_completion_tokens=2), 5.0),
        # half of the prompt is read
        (FakeJob("", num_prompt_tokens=40, num_computed_tokens=20, expected_tokens=7), 10.0),
        # what it may ask for stands in, and bounds what was said
        (FakeJob("", num_computed_tokens=1, max_tokens=30), 30.0),
        (FakeJob("", num_computed_tokens=1, max_tokens=30, expected_tokens=99), 30.0),
        # longer than it was said to be
        (FakeJob("", num_computed_tokens=1, expected_tokens=3, num_completion_tokens=8), 1.0),
    ],
)
def test_remaining_seconds(job: FakeJob, seconds: float) -> None:
    assert policy().remaining_seconds(job) == pytest.approx(seconds)


def test_the_shortest_goes_first_and_preempts() -> None:
    long, short = FakeJob("long", 0, expected_tokens=50), FakeJob("short", 1, arrived_at=10.0, expected_tokens=5)
    assert serve(policy(), [Load(long, 50), Load(short, 5)]) == ["short", "long"]
    assert long.num_preemptions == 1


def test_a_job_that_waited_too_often_is_not_preempted() -> None:
    tired = FakeJob("tired", 0, expected_tokens=50, num_preemptions=2)
    jobs = [FakeJob("short", 1, expected_tokens=5), tired, FakeJob("urgent", 2, priority=1)]
    assert names(policy(max_preemptions=2).order(jobs, 0.0)) == ["urgent", "tired", "short"]


def test_next_times_add_up_remaining_work() -> None:
    jobs = [FakeJob(str(at), num_computed_tokens=1, expected_tokens=at + 1) for at in range(3)]
    assert policy().next_times(jobs, 0.0) == [0.0, 1.0, 3.0]
