"""From the spec to Serve's options."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastserve_ray.serve.app import ServeTarget, replica_count, replica_resources, replica_version, shard_bundles
from fastserve_ray.serve.source import ModelSource
from fastserve_ray.serve.start import places_on
from fastserve_ray.serve.stored import StoredWeights
from fastserve_ray.spec.serve import AutoscalingSpec, ServeSpec, ShardsSpec
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
    )
    config = replica_count(spec)["autoscaling_config"]
    assert {name: getattr(config, name) for name in AutoscalingSpec.model_fields} == spec.model_dump()


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
    assert places_on({"CPU": 3.0, "memory": 1e9}, {"CPU": cpus, "GPU": 0}) == places
    assert places_on({"CPU": 3.0, "GPU": 1.0}, {"CPU": cpus, "GPU": 1}) == min(places, 1)
