"""Which model a file serves: what its own run has made and verified, or the one that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.errors import ArtifactError

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.spec.run import RunSpec

ARTIFACT = re.compile(r"artifact:\S+|[a-z]+-[0-9a-f]{16}|[^/@\s]+@[a-z]+")
"""``artifact:ID``, an artifact's id, or ``run@stage``."""


def model_of(spec: RunSpec, file: str = "app.yaml") -> str:
    """The last model artifact of this very spec, which verification must have passed; or ``model.base`` as it is.

    Args:
        file: the spec's name, for the hint of an error.

    Raises:
        ArtifactError: it is not made yet; or nothing published answers to ``model.base``.
    """
    from fastserve_ray.plan.stages import plan_run

    if spec.train is None and not spec.compress and spec.model.base is not None:
        return model_at(spec.model.base, spec.storage)
    plan = plan_run(spec)
    model = plan.stage("compress" if spec.compress else "train").artifact_id
    needed = [model, *(stage.artifact_id for stage in plan.stages if stage.name == "verify")]
    missing = [artifact for artifact in needed if not _is_published(artifact, spec.storage)]
    if missing:
        raise ArtifactError(
            "this file has no verified model yet",
            value=f"not published: {', '.join(missing)}",
            key="storage",
            hint=f"make it first: fastserve run {file}",
        )
    return f"artifact:{model}"


def model_at(reference: str, storage: str) -> str:
    """``artifact:ID`` for what names an artifact; a folder and a hub id as they are.

    Raises:
        ArtifactError: nothing published answers to it, or it is no model.
    """
    is_artifact = not Path(reference).exists() and ARTIFACT.fullmatch(reference) is not None
    return f"artifact:{model_manifest(reference, storage).id}" if is_artifact else reference


def model_manifest(reference: str, storage: str) -> Manifest:
    """Of an artifact that is a model.

    Raises:
        ArtifactError: nothing published answers to it, or it is no model.
    """
    from fastserve_ray.artifacts.registry import Registry
    from fastserve_ray.storage.filesystem import Storage

    manifest = Registry(Storage.open(storage)).resolve(reference)
    if manifest.kind != "model":
        raise ArtifactError("this artifact is no model", value=f"{manifest.id} is a {manifest.kind}", allowed="a model")
    return manifest


def _is_published(artifact: str, storage: str) -> bool:
    from fastserve_ray.artifacts.publish import manifest_path
    from fastserve_ray.storage.filesystem import Storage

    return Storage.open(storage).exists(manifest_path(artifact))
