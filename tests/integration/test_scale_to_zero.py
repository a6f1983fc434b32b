"""Autoscaling by outstanding tokens: from zero, up, down and to zero again, over HTTP."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray import serve

from fastserve_ray.serve.app import deployment_name
from fastserve_ray.serve.cold_start import PHASES
from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.serve import AutoscalingSpec, EngineSpec, SchedulerSpec, ServeSpec
from tests.integration.served import CONTEXT
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

DEADLINE_S = 120.0

SHORT: dict[str, Any] = {"model": "sleepy", "prompt": "the cat sat on the", "max_tokens": 8, "temperature": 0}
LONG: dict[str, Any] = {**SHORT, "max_tokens": CONTEXT - 32, "n": 16, "stream": True}
"""Thousands of tokens in one request: many targets' worth in tokens, an eighth of the target in requests."""


@pytest.fixture(scope="module")
def sleepy(ray_cluster: str, generator_folder: Path) -> Iterator[ServedApp]:
    scaling = AutoscalingSpec(
        min_replicas=0,
        max_replicas=2,
        target_outstanding_tokens=2000.0,
        upscale_delay_s=0.0,
        downscale_delay_s=1.0,
        downscale_to_zero_delay_s=6.0,  # time to look at the only replica
        metrics_interval_s=0.5,
        look_back_period_s=1.5,
    )
    engine = EngineSpec(scheduler=SchedulerSpec(policy="fair"))  # so there is a gate
    spec = ServeSpec(port=0, autoscaling_config=scaling, engine=engine, max_ongoing_requests=4)
    app = deploy(generator_folder, "text-generation", "sleepy", spec)
    yield app
    app.shutdown()


def num_replicas() -> int:
    states = serve.status().applications["sleepy"].deployments[deployment_name("sleepy")].replica_states
    return sum(states.values())


def num_running() -> int:
    return int(
        serve.status().applications["sleepy"].deployments[deployment_name("sleepy")].replica_states.get("RUNNING", 0)
    )


def test_at_zero_it_is_ready(sleepy: ServedApp) -> None:
    assert num_replicas() == 0
    answer = httpx.get(f"{sleepy.url}/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "ready, scaled to zero")
    assert httpx.get(f"{sleepy.url}/v1/models").json()["data"][0]["id"] == "sleepy"
    assert httpx.get(f"{sleepy.url}/metrics").status_code == 200
    assert num_replicas() == 0, "nothing of that started a replica"


def test_a_request_at_zero_is_held_and_answered_and_its_wait_is_told_by_phase(sleepy: ServedApp) -> None:
    began = time.monotonic()
    answer = httpx.post(f"{sleepy.url}/v1/completions", json=SHORT, timeout=120)
    waited = time.monotonic() - began
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 8
    assert httpx.get(f"{sleepy.url}/ready").json() == {"status": "ready"}
    phases = start_phases(sleepy)
    assert set(phases) == set(PHASES)
    assert all(seconds >= 0 for seconds in phases.values())
    assert phases["import"] + phases["weights"] > 0
    assert sum(phases.values()) <= waited + 0.5, "they are parts of the wait"


def start_phases(app: ServedApp) -> dict[str, float]:
    """Of the only replica."""
    page = text_string_to_metric_families(httpx.get(f"{app.url}/metrics").text)
    samples = [sample for family in page for sample in family.samples]
    return {one.labels["phase"]: one.value for one in samples if one.name == "fastserve_replica_start_seconds"}


def test_tokens_scale_up_and_the_last_replica_stops_when_there_are_none(sleepy: ServedApp) -> None:
    enough = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(ask_until, sleepy, enough) for _ in range(2)]
        try:
            wait_for(lambda: num_running() == 2, DEADLINE_S, "a second replica is up")
        finally:
            enough.set()
        assert all(client.result(timeout=60) for client in clients), "their requests ran"
    wait_for(lambda: num_replicas() == 0, DEADLINE_S, "without work there is no replica")
    assert httpx.get(f"{sleepy.url}/ready").json()["status"] == "ready, scaled to zero"
    again = httpx.post(f"{sleepy.url}/v1/completions", json=SHORT, timeout=120)
    assert again.status_code == 200, again.text


def ask_until(app: ServedApp, enough: threading.Event) -> int:
    """A client with one request after the other, each with more to do than a replica should have; returns how many
    of them were answered with tokens."""
    num_answered = 0
    while not enough.is_set():
        with httpx.stream("POST", f"{app.url}/v1/completions", json=LONG, timeout=120) as response:
            assert response.status_code == 200
            num_answered += 1
            for _ in response.iter_bytes():
                if enough.is_set():
                    break
    return num_answered


MANY: dict[str, Any] = {**SHORT, "prompt": [5] * 200, "max_tokens": 100}


def test_what_waits_at_the_gate_scales_up(sleepy: ServedApp) -> None:
    """Three of these requests are in the replica, with 900 tokens at most; a second one is started for the others."""
    assert httpx.post(f"{sleepy.url}/v1/completions", json=SHORT, timeout=120).status_code == 200
    wait_for(lambda: num_running() == 1, DEADLINE_S, "one replica is up")
    enough = threading.Event()
    with ThreadPoolExecutor(40) as pool:
        clients = [pool.submit(ask_whole_until, sleepy, enough) for _ in range(40)]
        try:
            wait_for(lambda: num_running() == 2, DEADLINE_S, "a second replica is up")
        finally:
            enough.set()
        assert all(client.result(timeout=60) for client in clients), "all are answered"


def ask_whole_until(app: ServedApp, enough: threading.Event) -> int:
    num_answered = 0
    while not enough.is_set():
        answer = httpx.post(f"{app.url}/v1/completions", json=MANY, timeout=120)
        assert answer.status_code == 200, answer.text
        num_answered += 1
    return num_answered
