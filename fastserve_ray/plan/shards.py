"""Whether a model that is already there can be served over the shards that the spec asks for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fastserve_ray.errors import Problem, SpecError
from fastserve_ray.plan.model_size import local_folder
from fastserve_ray.spec.checks.shards import uncut_model, uncut_replica
from fastserve_ray.spec.yaml_reader import dotted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fastserve_ray.spec.problems import Finding
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.serve import ServeSpec, ShardsSpec


def check_base(spec: RunSpec) -> None:
    """Look at ``model.base`` where it is on this machine; a ``model.config`` was checked with the file.

    Raises:
        SpecError: its family has no plan, or its heads cannot be shared out evenly.
    """
    if spec.serve is None or spec.model.base is None:
        return
    folder = local_folder(spec.model)
    if folder is not None:
        _refuse(_found_in(folder, spec.serve.shards))


def check_deployment(model: Path, task: str, serve: ServeSpec) -> None:
    """The same of a model that is served without a file.

    Args:
        model: its folder; without effect when there is none.

    Raises:
        SpecError: see `check_base`; or no model could be served so.
    """
    _refuse([*uncut_replica(serve, task), *_found_in(model, serve.shards)])


def _found_in(folder: Path, shards: ShardsSpec) -> list[Finding]:
    if shards.tensor == 1 or not (folder / "config.json").is_file():
        return []
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # who loads it says what is wrong with it
    return list(uncut_model(config, shards.tensor)) if isinstance(config, dict) else []


def _refuse(findings: Sequence[Finding]) -> None:
    if findings:
        raise SpecError(
            [Problem(dotted(found.path), found.message, value=found.value, allowed=found.allowed) for found in findings]
        )
