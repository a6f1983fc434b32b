"""The policy in tokens, called as Serve's controller calls it: with Ray's own delays and bounds around it."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from fastserve_ray.serve.autoscaling import METRIC, OutstandingTokens, outstanding_tokens

DEPLOYMENT = DeploymentID("model-0", "app")


def context(num_replicas: int, *, tokens: float, running: float = 1.0, queued: float = 0.0, target: int = 1) -> Any:
    replicas = [ReplicaID(str(number), DEPLOYMENT) for number in range(num_replicas)]
    return AutoscalingContext(
        deployment_id=DEPLOYMENT,
        deployment_name="model-0",
        app_name="app",
        current_num_replicas=num_replicas,
        target_num_replicas=target,
        running_replicas=replicas,
        total_num_requests=running + queued,
        total_queued_requests=queued,
        aggregated_metrics={METRIC: dict.fromkeys(replicas, tokens)},
        raw_metrics=None,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=9,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=0.0,
        config=AutoscalingConfig(min_replicas=0, max_replicas=9, upscale_delay_s=0, downscale_delay_s=0),
    )


@pytest.mark.parametrize(
    ("num_replicas", "tokens", "expected"),
    [(1, 1000.0, 1), (1, 1001.0, 2), (2, 5000.0, 10), (4, 100.0, 1), (1, 0.0, 0)],
)
def test_as_many_replicas_as_there_are_targets_of_tokens(num_replicas: int, tokens: float, expected: int) -> None:
    """Four requests of any size: what they hold decides."""
    policy = _apply_autoscaling_config(OutstandingTokens(1000.0))
    running = 4.0 if tokens else 0.0
    found, _ = policy(context(num_replicas, tokens=tokens, running=running, target=num_replicas))
    assert found == expected


def test_from_zero_any_request_starts_one_at_once() -> None:
    policy = _apply_autoscaling_config(OutstandingTokens(1000.0))
    assert policy(context(0, tokens=0.0, running=0.0, queued=7.0, target=0))[0] == 1
    assert policy(context(0, tokens=0.0, running=0.0, queued=0.0, target=0))[0] == 0
    assert policy(context(0, tokens=0.0, running=0.0, queued=0.0, target=1))[0] == 1, "the one that starts goes on"


def test_waiting_requests_count_as_running_ones_do() -> None:
    assert outstanding_tokens(400.0, num_running=4, num_queued=6, target_tokens=100) == 1000.0
    assert outstanding_tokens(400.0, num_running=4, num_queued=0, target_tokens=100) == 400.0
    assert outstanding_tokens(0.0, num_running=4, num_queued=6, target_tokens=100) == 100.0
    assert outstanding_tokens(50.0, num_running=0, num_queued=6, target_tokens=100) == 150.0
