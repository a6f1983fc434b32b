"""Rules about ``cluster``: what is asked of an embedded Ray whose size the file gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.problems import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.train import WorkerResources
    from fastserve_ray.spec.yaml_reader import Path


def check_cluster(spec: RunSpec) -> Iterator[Finding]:
    """No more workers than the embedded Ray has room for; no size for a Ray that is only joined."""
    if spec.cluster.address != "local":
        yield from _ignored(spec)
        return
    if spec.train is not None:
        ranks = spec.train.parallel.num_ranks
        yield from _room(spec, ("train", "parallel", "workers"), ranks, spec.train.resources_per_worker, "train")
        if spec.tune is not None:
            trial: Path = ("tune", "workers_per_trial")
            yield from _room(spec, trial, spec.ranks_per_trial, spec.train.resources_per_worker, "train")
    if spec.serve is not None:
        path: Path = ("serve", "autoscaling_config", "min_replicas")
        replicas = spec.serve.autoscaling_config.min_replicas
        yield from _room(spec, path, replicas, spec.serve.resources_per_replica, "serve")


def _room(spec: RunSpec, path: Path, count: int, each: WorkerResources, section: str) -> Iterator[Finding]:
    name = "resources_per_worker" if section == "train" else "resources_per_replica"
    for resource, there in (("CPU", spec.cluster.num_cpus), ("GPU", spec.cluster.num_gpus)):
        amount = getattr(each, resource)
        limit = f"num_{resource.lower()}s"
        if there is not None and count * amount > there:
            yield Finding(
                path,
                f"{count} x {amount:g} {resource} is more than cluster.{limit} ({there})",
                str(count),
                f"at most {int(there // amount)}, or a larger cluster.{limit}",
                uses=(("cluster", limit), (section, name, resource)),
            )


def _ignored(spec: RunSpec) -> Iterator[Finding]:
    for name in ("num_cpus", "num_gpus", "object_store_memory_mb"):
        value = getattr(spec.cluster, name)
        if value is not None:
            yield Finding(
                ("cluster", name),
                "a Ray that already runs has its size",
                str(value),
                "only with address: local",
                uses=(("cluster", "address"),),
            )
