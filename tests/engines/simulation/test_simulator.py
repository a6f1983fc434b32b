"""Runs by hand, and what policies do on three kinds of load."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fastserve_ray.engines.simulation.outcome import Arrival
from fastserve_ray.engines.simulation.simulator import SimulatedRun, Simulator
from fastserve_ray.engines.simulation.time_model import TimeModel
from fastserve_ray.engines.torch.profile import Profile
from fastserve_ray.spec.serve import EngineSpec, SchedulerSpec

TIMES = TimeModel(fixed=0.003, row=0.0003, prompt_token=0.00008, context_token=1e-7, swapped_block=0.00002)
PROFILE = Profile(prefill=((16, 0.0045), (128, 0.0135)), decode_seconds=0.0033)
CAPACITY = {"lognormal": 1800.0, "uniform": 1850.0, "alike": 1850.0}
"""Completion tokens a second with 16 sequences, about."""


def simulate(arrivals: list[Arrival], policy: str = "fcfs", *, times: TimeModel = TIMES, **spec: Any) -> SimulatedRun:
    engine = EngineSpec.model_validate(
        {"kv_cache_tokens": 16384, "max_num_batched_tokens": 256, "scheduler": {"policy": policy}, **spec}
    )
    return Simulator(engine, PROFILE, times, max_tokens=768, knows_lengths=policy == "srpt").run(arrivals)


def lengths(kind: str, draw: random.Random) -> int:
    if kind == "lognormal":
        return min(768, max(1, round(15.6 * draw.lognormvariate(0, 1.5))))
    return draw.randint(1, 90) if kind == "uniform" else 45


def load(kind: str, factor: float, *, seconds: float = 15.0, seed: int = 1) -> list[Arrival]:
    draw = random.Random(seed)
    tokens = [lengths(kind, draw) for _ in range(3000)]
    count = next(n for n in range(3000) if sum(tokens[:n]) >= factor * CAPACITY[kind] * seconds)
    times = sorted(draw.uniform(0, seconds) for _ in range(count))
    return [Arrival(at, draw.randint(8, 64), length) for at, length in zip(times, tokens, strict=False)]


def test_two_requests_by_hand() -> None:
    times = TimeModel(fixed=1.0, row=0.1, prompt_token=0.01)
    run = simulate([Arrival(5.0, 10, 2), Arrival(5.5, 20, 1)], times=times)
    # 5.0: a prompt of 10 takes 1.1 s; then a's second token beside the prompt of 20 takes 1 + 0.1 + 0.2
    by_arrival = sorted(run.outcomes, key=lambda outcome: outcome.arrived)
    assert [outcome.first_token for outcome in by_arrival] == pytest.approx([6.1, 7.4])
    assert [outcome.finished for outcome in by_arrival] == pytest.approx([7.4, 7.4])
    assert run.seconds == pytest.approx(7.4)
    assert run.summary.mean_completion == pytest.approx((2.4 + 1.9) / 2)


def test_is_deterministic() -> None:
    arrivals = load("lognormal", 1.1, seconds=3)
    assert simulate(arrivals, "skip-join-mlfq") == simulate(arrivals, "skip-join-mlfq")


@pytest.mark.parametrize("policy", ["fcfs", "skip-join-mlfq", "srpt", "fair"])
def test_all_requests_end_with_little_memory(policy: str) -> None:
    arrivals = load("lognormal", 1.1, seconds=3)
    run = simulate(arrivals, policy, kv_cache_tokens=1024, kv_host_tokens=2048)
    assert len(run.outcomes) == len(arrivals)
    assert run.summary.peak_blocks <= 64
    lengths_of = sorted(outcome.num_completion_tokens for outcome in run.outcomes)
    assert lengths_of == sorted(arrival.num_completion_tokens for arrival in arrivals)
    for outcome in run.outcomes:
        assert outcome.arrived < outcome.first_token <= outcome.finished


def test_swaps_are_counted_when_they_outlast_steps() -> None:
    arrivals = load("lognormal", 1.1, seconds=3)
    slow = TimeModel(0.003, 0.0003, 0.00008, swapped_block=0.01)
    spec: dict[str, Any] = {"kv_cache_tokens": 1024, "kv_host_tokens": 4096}
    assert simulate(arrivals, "skip-join-mlfq", times=slow, **spec).summary.swap_share > 0
    assert simulate(arrivals, "skip-join-mlfq", **spec).summary.swap_share < 0.05


def test_needs_a_cache_size() -> None:
    with pytest.raises(ValueError, match="kv_cache_tokens"):
        simulate([Arrival(0.0, 1, 1)], kv_cache_tokens=None)


def test_heavy_tails_gain_by_feedback_queues() -> None:
    arrivals = load("lognormal", 1.1)
    fcfs, mlfq = simulate(arrivals).summary, simulate(arrivals, "skip-join-mlfq").summary
    assert fcfs.mean_per_token >= 4 * mlfq.mean_per_token
    assert mlfq.p99_completion <= 2 * fcfs.p99_completion
    assert mlfq.mean_completion < 0.8 * fcfs.mean_completion
    assert mlfq.swap_share <= 0.05


@pytest.mark.parametrize("factor", [0.7, 0.9, 1.1])
@pytest.mark.parametrize("kind", ["lognormal", "uniform", "alike"])
def test_feedback_queues_never_lose_a_tenth_to_fcfs(kind: str, factor: float) -> None:
    arrivals = load(kind, factor)
    fcfs, mlfq = simulate(arrivals).summary, simulate(arrivals, "skip-join-mlfq").summary
    assert mlfq.mean_completion <= 1.1 * fcfs.mean_completion
    assert mlfq.mean_per_token <= 1.1 * fcfs.mean_per_token


@pytest.mark.parametrize("policy", ["skip-join-mlfq", "srpt", "fair"])
def test_preemptions_of_a_request_are_bounded(policy: str) -> None:
    run = simulate(load("lognormal", 1.1), policy, scheduler=SchedulerSpec(policy=policy, max_preemptions=2))
    assert max(outcome.num_preemptions for outcome in run.outcomes) <= 2


def test_priorities_stand_above_the_queue() -> None:
    arrivals = [Arrival(0.001 * at, 16, 60, priority=int(at == 59)) for at in range(60)]
    run = simulate(arrivals, max_num_seqs=4)
    last = max(run.outcomes, key=lambda outcome: outcome.arrived)
    assert last.completion_seconds < run.summary.mean_completion / 4
