"""The models that one application serves beside its first, and whether a new version of all has room beside the old."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray import __version__
from fastserve_ray.errors import ArtifactError, ModelError, PlacementError, ServeError
from fastserve_ray.plan.inputs import reference_kind
from fastserve_ray.plan.shards import check_deployment
from fastserve_ray.serve.app import FAIR, ServeTarget
from fastserve_ray.serve.composition import load_application
from fastserve_ray.serve.source import ARTIFACT, ModelSource
from fastserve_ray.serve.start import each_of
from fastserve_ray.spec.nodes import num_places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.serve.auth.access import Access
    from fastserve_ray.spec.serve import FurtherModelSpec, ServeSpec


OUTSIDE = {
    "model_name",
    "models",
    "autoscaling_config",
    "router",
    "max_ongoing_requests",
    "max_queued_requests",
    "request_timeout_s",
    "host",
    "port",
    "route_prefix",
    "sample_prompt",
    "auth",
    "cors_origins",
    "limits",
    "application",
    "request_log",
}
"""Keys that a replica does not see: Serve or the ingress keeps to them."""


def all_targets(first: ServeTarget, access: Access) -> list[ServeTarget]:
    """``first`` and the further models of its spec, checked as far as that needs no cluster.

    Raises:
        ServeError: a task without an endpoint; or the application does not take its settings.
        UnknownNameError: ``serve.application.kind`` cannot be imported.
        SpecError: a model cannot be served over so many shards.
        ModelError, ArtifactError: see `further_targets`.
    """
    _refuse_without_endpoint(first)
    if first.spec.application is not None:
        load_application(first.spec.application)
    found = [first, *further_targets(first.spec, first.source.storage)]
    targets = [with_shares(target, access) for target in found]
    for target in targets:
        check_deployment(Path(target.source.reference), target.task, target.spec)
    return targets


def _refuse_without_endpoint(target: ServeTarget) -> None:
    if target.task == "masked-lm":
        raise ServeError(
            "a masked language model is made to be fine-tuned; there is no endpoint for it",
            value=target.source.reference,
            allowed="a model for text-generation or text-classification",
            key="model.task",
        )


def further_targets(spec: ServeSpec, storage: str | None) -> list[ServeTarget]:
    """What ``spec.models`` names; ``run@stage`` is what it is now.

    Args:
        storage: of artifacts.

    Raises:
        ModelError: no such folder.
        ArtifactError: nothing published answers to a reference.
    """
    return [
        ServeTarget(_source(name, further, storage), further.task, name, spec.of_further(name))
        for name, further in spec.models.items()
    ]


def with_shares(target: ServeTarget, access: Access) -> ServeTarget:
    """With API keys the engine's policy is fair, unless the user has chosen another; weights come with the requests."""
    scheduler = target.spec.engine.scheduler
    if access.keys is None or ("policy" in scheduler.model_fields_set and scheduler.policy != FAIR):
        return target
    fair = scheduler.model_copy(update={"policy": FAIR})
    engine = target.spec.engine.model_copy(update={"scheduler": fair})
    return replace(target, spec=target.spec.model_copy(update={"engine": engine}))


def with_version(target: ServeTarget) -> ServeTarget:
    """The target with a version that changes with whatever its replicas are started with."""
    content = _content_of(target.source)
    if content is None:
        return target
    spec = target.spec.model_dump_json(exclude=OUTSIDE)
    parts = (__version__, target.task, target.source.reference, target.source.revision, content, spec)
    return replace(target, version=hashlib.sha256(repr(parts).encode()).hexdigest()[:16])


def _content_of(source: ModelSource) -> object:
    """What tells a model's state from another one; None for a hub model that may change under its name."""
    folder = Path(source.reference)
    if source.reference.startswith(ARTIFACT):
        return str(source.storage)
    if not folder.is_dir():
        return source.revision
    files = ((path.relative_to(folder), path.stat()) for path in folder.rglob("*") if path.is_file())
    return sorted((str(name), stat.st_size, stat.st_mtime_ns) for name, stat in files)


def check_room(targets: Sequence[ServeTarget]) -> None:
    """Whether the whole cluster, if it did nothing else, could hold a replica of every model at once.

    Raises:
        PlacementError: it could not.
    """
    import ray

    present = ray.cluster_resources()
    for kind in ("CPU", "GPU"):
        asked = {target.name: _least(target, kind) for target in targets}
        if sum(asked.values()) > present.get(kind, 0):
            parts = ", ".join(f"{amount:g} for {name}" for name, amount in asked.items())
            raise PlacementError(
                f"there are not enough {kind}s for all models together",
                value=f"{sum(asked.values()):g} ({parts})",
                allowed=f"{present.get(kind, 0):g}, what the cluster has",
                key="serve.models",
            )


def _least(target: ServeTarget, kind: str) -> float:
    replicas = target.spec.autoscaling_config.min_replicas * target.spec.shards.tensor
    return float(replicas * getattr(target.spec.resources_per_replica, kind))


def surge_percent(targets: Sequence[ServeTarget]) -> int:
    """How many replicas a new version may have beside those of the old one: all, where there is room for one more of
    each model; else none, so that each old replica makes room for a new one."""
    from ray._private.state import available_resources_per_node

    nodes = available_resources_per_node().values()
    has_room = all(
        sum(num_places(node, each_of(target.spec)) for node in nodes) >= target.spec.shards.tensor for target in targets
    )
    return 100 if has_room else 0


def _source(name: str, further: FurtherModelSpec, storage: str | None) -> ModelSource:
    kind = reference_kind(further.base)
    if kind == "artifact":
        return ModelSource(f"{ARTIFACT}{_artifact(name, further.base, storage)}", storage)
    if kind == "folder":
        return ModelSource(str(Path(further.base).expanduser().absolute()))
    if kind == "hub":
        return ModelSource(further.base, revision=further.revision)
    raise ModelError(
        "there is no such model",
        value=further.base,
        allowed="a folder, a hub id, artifact:ID or run@stage",
        key=f"serve.models.{name}.base",
    )


def _artifact(name: str, reference: str, storage: str | None) -> str:
    from fastserve_ray.artifacts.registry import Registry
    from fastserve_ray.storage.filesystem import Storage

    if storage is None:
        raise ArtifactError("an artifact needs its storage", value=reference, key=f"serve.models.{name}.base")
    return Registry(Storage.open(storage)).resolve(reference).id
