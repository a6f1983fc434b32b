"""The application as Serve builds it by itself, from a configuration that names `build`: in a RayService, or when one
is handed to Serve's REST API. It is the one that `deploy` runs.

Serve restarts the replicas of such an application whenever its arguments change, also those that `deploy` would leave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import ServeError
from fastserve_ray.serve.app import ServeTarget, build_app
from fastserve_ray.serve.auth.access import access_of
from fastserve_ray.serve.result import model_at, model_of
from fastserve_ray.serve.source import ModelSource
from fastserve_ray.serve.targets import all_targets, surge_percent
from fastserve_ray.spec.base import Section
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.spec.serve import ServeSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue
    from ray.serve import Application

IMPORT_PATH = "fastserve_ray.serve.builder:build"


class BuildArguments(Section):
    """What a Serve configuration gives under ``args``."""

    app: dict[str, Any]
    """The whole file, as ``spec.load.dump_spec`` writes it."""
    model: str | None = None
    """``artifact:ID``, ``run@stage``, a hub id or a folder that the nodes see; default: what the file's own run has
    made and verified, or its ``model.base``."""


def build(arguments: Mapping[str, JsonValue]) -> Application:
    """Called by Serve in a process of the cluster; paths are those of its node.

    Raises:
        ServeError: the arguments are wrong.
        SpecError: the file is wrong.
        ArtifactError: there is no such model, or none that is verified.
        Others: as `serve.deploy.deploy`, as far as they need no answering replica.
    """
    given = _arguments(arguments)
    spec = spec_from_dict(given.app)
    serve = spec.serve or ServeSpec()
    model = model_of(spec) if given.model is None else model_at(given.model, spec.storage)
    source = ModelSource(model, spec.storage, spec.model.revision)
    access = access_of(serve)
    targets = all_targets(ServeTarget(source, spec.model.task, serve.model_name or spec.name, serve), access)
    return build_app(targets, access, surge_percent=100 if spec.cluster.may_grow else surge_percent(targets))


def _arguments(arguments: Mapping[str, JsonValue]) -> BuildArguments:
    try:
        return BuildArguments.model_validate(dict(arguments))
    except ValueError as error:
        raise ServeError(
            "these are no arguments of the application",
            value=", ".join(arguments) or "none",
            allowed="app: the file as a mapping; model: a reference",
            key="args",
        ) from error
