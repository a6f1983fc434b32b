"""Placement: the bundles that each stage asks for, against what is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastserve_ray.errors import PlacementError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastserve_ray.plan.stages import Plan, PlannedStage
    from fastserve_ray.spec.cluster import ClusterSpec
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.serve import ServeSpec

_PER_WORKER = {
    "train": "train.resources_per_worker",
    "tune": "train.resources_per_worker",
    "serve": "serve.resources_per_replica",
}
_COUNT = {
    "train": "train.parallel.workers",
    "tune": "tune.workers_per_trial",
    "serve": "serve.autoscaling_config.min_replicas",
}


@dataclass(frozen=True)
class Bundles:
    """Equal reservations that must be there at the same time."""

    count: int
    cpus: float
    """CPUs of one."""
    gpus: float = 0.0
    """GPUs of one."""
    others: tuple[Bundles, ...] = ()
    """Of other sizes, or for other models, that must be there with them."""

    @property
    def total_cpus(self) -> float:
        return self.count * self.cpus + sum(other.total_cpus for other in self.others)

    @property
    def total_gpus(self) -> float:
        return self.count * self.gpus + sum(other.total_gpus for other in self.others)

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU" + (f" + {self.gpus:g} GPU" if self.gpus else "")
        return " + ".join([f"{self.count} x ({each})", *map(str, self.others)])


@dataclass(frozen=True)
class Present:
    """What a cluster offers; None: only known once Ray is asked."""

    cpus: float | None
    gpus: float | None


def bundles_of(spec: RunSpec, stage: str) -> Bundles:
    """What ``stage`` needs at least: one trial at a time for ``tune``, all shards of the smallest number of replicas
    of every model for ``serve``.

    ``data``, ``import``, ``compress`` and ``verify`` run in one process of one CPU.
    """
    if stage in ("train", "tune") and spec.train is not None:
        count = spec.train.parallel.num_ranks
        if stage == "tune":
            count = spec.ranks_per_trial
        each = spec.train.resources_per_worker
        return Bundles(count, float(each.CPU), float(each.GPU))
    if stage == "serve" and spec.serve is not None:
        return _served(spec.serve)
    return Bundles(1, 1.0)


def _served(serve: ServeSpec) -> Bundles:
    """Of the run's own model and of the further ones. Models without a replica at rest can take turns: of them, the one
    that needs the most has a place."""
    models = [serve, *map(serve.of_further, serve.models)]
    found = [_replicas(model, max(1, model.autoscaling_config.min_replicas)) for model in models]
    turns = [number for number, model in enumerate(models) if model.autoscaling_config.min_replicas == 0]
    largest = max(turns, key=lambda number: (found[number].total_gpus, found[number].total_cpus), default=None)
    first, *others = [bundles for number, bundles in enumerate(found) if number not in turns or number == largest]
    return replace(first, others=tuple(others))


def _replicas(model: ServeSpec, count: int) -> Bundles:
    each = model.resources_per_replica
    return Bundles(count * model.shards.tensor, float(each.CPU), float(each.GPU))


def present_resources(spec: RunSpec) -> Present:
    """CPUs and GPUs of an embedded Ray: what the file gives, else what this machine has. Of another Ray: what the
    nodes have that the file describes, when there are as many as may be."""
    if spec.cluster.address != "local":
        return _described(spec.cluster)
    cpus, gpus = spec.cluster.num_cpus, spec.cluster.num_gpus
    return Present(
        float(os.cpu_count() or 1) if cpus is None else float(cpus),
        float(count_gpus()) if gpus is None else float(gpus),
    )


def _described(cluster: ClusterSpec) -> Present:
    if cluster.available_node_types is None:
        return Present(None, None)
    return Present(float(cluster.most_of_resource("CPU")), float(cluster.most_of_resource("GPU")))


def count_gpus() -> int:
    """NVIDIA GPUs that ``nvidia-smi`` lists; 0 without it."""
    return len(list_gpus())


def list_gpus() -> list[str]:
    """One line of ``nvidia-smi -L`` for each GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line for line in done.stdout.splitlines() if line.startswith("GPU ")]


def check_placement(plan: Plan, cpus: float | None, gpus: float | None) -> None:
    """Refuse a plan of which some stage could never start.

    Args:
        plan: the plan.
        cpus, gpus: what the cluster has in all; None is not checked.

    Raises:
        PlacementError: says how many bundles of what are asked, and what is there.
    """
    short = list(short_stages(plan.stages, Present(cpus, gpus)))
    if not short:
        return
    there = f"{cpus or 0:g} CPU and {gpus or 0:g} GPU"
    asked = "; ".join(f"{stage.name} asks for {stage.resources}" for stage in short)
    name = short[0].name
    raise PlacementError(
        "the stages ask for more than the cluster has",
        value=asked,
        allowed=f"bundles that fit into {there}",
        key=_keys_of(name, plan.spec.serve),
        hint="or run on a larger cluster (cluster.address, cluster.num_cpus)",
    )


def _keys_of(stage: str, serve: ServeSpec | None) -> str:
    """What a user changes so that ``stage`` asks for less."""
    if stage not in _COUNT:
        return "cluster.num_cpus"
    keys = [_COUNT[stage]]
    if stage == "serve" and serve is not None:
        keys = ["serve.models"] * bool(serve.models) + ["serve.shards.tensor"] * (serve.shards.tensor > 1) + keys
    return f"{', '.join(keys)} or {_PER_WORKER[stage]}"


def short_stages(stages: Iterable[PlannedStage], present: Present) -> Iterable[PlannedStage]:
    """The stages that ask for more than is there."""
    for stage in stages:
        needs_cpus = present.cpus is not None and stage.resources.total_cpus > present.cpus
        needs_gpus = present.gpus is not None and stage.resources.total_gpus > present.gpus
        if needs_cpus or needs_gpus:
            yield stage
