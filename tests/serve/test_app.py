"""From the spec to Serve's options."""

from __future__ import annotations

from fastserve_ray.serve.app import replica_count, replica_resources
from fastserve_ray.spec.serve import AutoscalingSpec, ServeSpec
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
