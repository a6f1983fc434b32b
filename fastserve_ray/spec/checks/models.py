"""Rules about ``serve.models``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fastserve_ray.spec.checks.shards import uncut_replica
from fastserve_ray.spec.problems import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fastserve_ray.spec.model import TaskName
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.serve import ServeSpec

Path = tuple[str | int, ...]


def check_models(spec: RunSpec, rule: Callable[[ServeSpec, TaskName], Iterable[Finding]]) -> Iterator[Finding]:
    """Names that differ, and for each further model what holds for the first.

    Args:
        rule: about one served model.
    """
    if spec.serve is None:
        return
    first = spec.serve.model_name or spec.name
    for name, further in spec.serve.models.items():
        at = ("serve", "models", name)
        if name == first:
            yield Finding(
                at, "the run's own model has this name", name, "another name", uses=(("serve", "model_name"),)
            )
        served = spec.serve.of_further(name)
        for finding in (*rule(served, further.task), *uncut_replica(served, further.task)):
            path, *others = (_below(name, each) for each in (finding.path, *finding.uses))
            is_own = len(path) == len(at) or getattr(further, str(path[len(at)]), None) is not None
            if is_own or _is_about_task(finding):  # what it takes from `serve` is told there
                yield replace(finding, path=path, uses=tuple(others))


def check_models_fit(spec: RunSpec) -> Iterator[Finding]:
    """An embedded Ray has room for a replica of every model at once."""
    if spec.serve is None or not spec.serve.models or spec.cluster.address != "local":
        return
    served = [spec.serve, *map(spec.serve.of_further, spec.serve.models)]
    for kind, there in (("CPU", spec.cluster.num_cpus), ("GPU", spec.cluster.num_gpus)):
        asked = sum(
            each.autoscaling_config.min_replicas * each.shards.tensor * getattr(each.resources_per_replica, kind)
            for each in served
        )
        if there is not None and asked > there:
            limit = f"num_{kind.lower()}s"
            yield Finding(
                ("serve", "models"),
                f"all models together need more {kind}s than cluster.{limit} ({there})",
                f"{asked:g}",
                f"fewer or smaller replicas, or a larger cluster.{limit}",
                uses=(("cluster", limit), ("serve", "autoscaling_config"), ("serve", "resources_per_replica")),
            )


def _is_about_task(finding: Finding) -> bool:
    return ("model", "task") in finding.uses


def _below(name: str, path: Path) -> Path:
    """A path of the first model as one of a further model."""
    if path == ("model", "task"):
        return ("serve", "models", name, "task")
    return ("serve", "models", name, *path[1:])
