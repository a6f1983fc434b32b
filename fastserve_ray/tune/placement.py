"""What a trial takes of the cluster, and how many fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.errors import PlacementError
from fastserve_ray.plan.resources import present_resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.train import TrainSpec

DRIVER_CPU = 0.1
"""CPUs of a trial's own process when Ray Train workers do the work."""


def trial_resources(spec: RunSpec) -> dict[str, float]:
    """What Ray reserves for a trial's own process."""
    assert spec.tune is not None
    assert spec.train is not None
    if spec.tune.workers_per_trial > 1:
        return {"CPU": DRIVER_CPU}
    return {name: float(value) for name, value in spec.train.resources_per_worker.model_dump().items() if value}


def max_concurrent(spec: RunSpec) -> int | None:
    """As the spec says; else, when workers do the work, as many trials as have room for all of theirs."""
    assert spec.tune is not None
    assert spec.train is not None
    if spec.tune.max_concurrent_trials is not None or spec.tune.workers_per_trial == 1:
        return spec.tune.max_concurrent_trials
    return room_for(spec.train, spec.ranks_per_trial, _present(spec))


def _present(spec: RunSpec) -> Mapping[str, float]:
    """What there is, or what there will be where nodes come as they are asked for."""
    import ray

    if not spec.cluster.may_grow:
        present: Mapping[str, float] = ray.cluster_resources()
        return present
    grown = present_resources(spec)
    return {"CPU": grown.cpus or 0.0, "GPU": grown.gpus or 0.0}


def room_for(train: TrainSpec, workers: int, present: Mapping[str, float]) -> int:
    """Trials of so many workers that fit at once, at least 1."""
    needed = {name: value * workers for name, value in train.resources_per_worker.model_dump().items() if value}
    needed["CPU"] += DRIVER_CPU
    return max(1, min(int(present.get(name, 0.0) / value) for name, value in needed.items()))


def refuse_no_room(resources: Mapping[str, float]) -> None:
    """Ray Tune would wait for ever."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= value for name, value in resources.items()) for node in nodes):
        raise PlacementError(
            "no node has the resources of a trial",
            value=", ".join(f"{name}: {value:g}" for name, value in resources.items()),
            allowed="; ".join(f"CPU: {node.get('CPU', 0):g}, GPU: {node.get('GPU', 0):g}" for node in nodes),
            key="train.resources_per_worker",
        )
