"""From the spec to Serve's options."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ray.serve._private.request_router import PowerOfTwoChoicesRequestRouter

from fastserve_ray.errors import UnknownNameError
from fastserve_ray.serve.app import (
    ServeTarget,
    replica_count,
    replica_resources,
    replica_version,
    router_config,
    shard_bundles,
)
from fastserve_ray.serve.autoscaling import OutstandingTokens
from fastserve_ray.serve.routing.router import PrefixLoadRouter
from fastserve_ray.serve.source import ModelSource
from fastserve_ray.serve.stored import StoredWeights
from fastserve_ray.spec.nodes import num_places
from fastserve_ray.spec.serve import AutoscalingSpec, RouterSpec, ServeSpec, ShardsSpec
from fastserve_ray.spec.train import WorkerResources


def test_a_fixed_count_needs_no_autoscaler() -> None:
    assert replica_count(AutoscalingSpec(min_replicas=2, max_replicas=2)) == {"num_replicas": 2}


def test_every_autoscaling_key_reaches_ray_serve() -> None:
    spec = AutoscalingSpec(
        min_replicas=0,
        max_replicas=3,
        initial_replicas=1,
        target_ongoing_requests=5.0,
        upscale_delay_s=1.0,
        downscale_delay_s=2.0,
        downscale_to_zero_delay_s=3.0,
        metrics_interval_s=4.0,
        look_back_period_s=5.0,
    )
    config = replica_count(spec)["autoscaling_config"]
    rays_own = spec.model_dump(exclude={"target_outstanding_tokens"})
    assert {name: getattr(config, name) for name in rays_own} == rays_own
    assert config.policy.policy_function == "ray.serve.autoscaling_policy:default_autoscaling_policy"


def test_a_target_in_tokens_is_a_policy_of_its_own() -> None:
    spec = AutoscalingSpec(max_replicas=3, target_outstanding_tokens=500.0)
    policy = replica_count(spec)["autoscaling_config"].policy
    assert policy.get_policy() is OutstandingTokens
    assert policy.policy_kwargs == {"target_tokens": 500.0}


def test_the_router_reaches_ray_serve() -> None:
    config = router_config(RouterSpec(max_skew=2.0, stats_period_s=3.0))
    assert config.get_request_router_class() is PrefixLoadRouter
    assert config.request_router_kwargs == {"max_skew": 2.0, "slack_tokens": 1024.0}
    assert config.request_routing_stats_period_s == 3.0
    assert router_config(RouterSpec(kind="power-of-two")).request_router_kwargs == {}
    assert router_config(RouterSpec(kind="power-of-two")).get_request_router_class() is PowerOfTwoChoicesRequestRouter
    own = RouterSpec(kind="fastserve_ray.serve.routing.router:PrefixLoadRouter", options={"max_skew": 3.0})
    assert router_config(own).get_request_router_class() is PrefixLoadRouter
    assert router_config(own).request_router_kwargs == {"max_skew": 3.0}
    with pytest.raises(UnknownNameError):
        router_config(RouterSpec(kind="no.such:Router"))


def test_a_replica_reserves_what_the_spec_says() -> None:
    spec = ServeSpec(resources_per_replica=WorkerResources(CPU=0.5, GPU=1))
    assert replica_resources(spec) == {"num_cpus": 0.5, "num_gpus": 1}


def test_a_sharded_replica_reserves_a_bundle_for_each_shard() -> None:
    resources = WorkerResources(CPU=0.5, GPU=1)
    assert shard_bundles(ServeSpec(resources_per_replica=resources)) == {}
    options = shard_bundles(ServeSpec(resources_per_replica=resources, shards=ShardsSpec(tensor=2)))
    assert options == {
        "placement_group_bundles": [{"CPU": 0.5, "GPU": 1.0}] * 2,
        "placement_group_strategy": "PACK",
    }


def test_replicas_with_the_weight_store_are_another_version() -> None:
    source = ModelSource("artifact:a", "./runs")
    stored = replace(source, stored=StoredWeights(1, is_required=True))
    target = ServeTarget(source, "text-generation", "m", ServeSpec(), version="v")
    versions = [replica_version(target, source), replica_version(target, stored)]
    assert versions[0] == "v"
    assert versions[1] not in (None, "v")
    assert replica_version(replace(target, version=None), stored) is None


@pytest.mark.parametrize(("cpus", "places"), [(1, 3), (1.5, 2), (0.1, 30), (4, 0)])
def test_places_on_a_node(cpus: float, places: int) -> None:
    assert num_places({"CPU": 3.0, "memory": 1e9}, {"CPU": cpus, "GPU": 0}) == places
    assert num_places({"CPU": 3.0, "GPU": 1.0}, {"CPU": cpus, "GPU": 1}) == min(places, 1)
