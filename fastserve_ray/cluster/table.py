"""What can be rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray import __version__
from fastserve_ray.cluster.app import app_of
from fastserve_ray.cluster.text import to_file
from fastserve_ray.lazy import LazyTable

if TYPE_CHECKING:
    from fastserve_ray.spec.run import RunSpec

RENDERERS = LazyTable(
    "target",
    "fastserve render TARGET",
    {
        "ray-up": "fastserve_ray.cluster.ray_up:render",
        "raycluster": "fastserve_ray.cluster.raycluster:render",
        "rayservice": "fastserve_ray.cluster.rayservice:render",
        "rayjob": "fastserve_ray.cluster.rayjob:render",
        "serve-config": "fastserve_ray.cluster.serve_config:render",
        "helm-values": "fastserve_ray.cluster.helm_values:render",
    },
)
"""Each takes an `App` and gives YAML documents."""


def render(target: str, spec: RunSpec, model: str | None = None) -> str:
    """The text of a file for another tool.

    Args:
        target: a name in ``RENDERERS``.
        model: what is served: ``artifact:ID``, ``run@stage``, a hub id, or a folder that the nodes see; default: what
            the file's own run makes.

    Raises:
        UnknownNameError: there is no such target.
        SpecError: the file leaves out what the target needs, or names what its nodes cannot see.
    """
    renderer = RENDERERS.load(target)
    app = app_of(spec, model)
    documents: list[dict[str, Any]] = renderer(app)
    return to_file(documents, [f"made by fastserve render {target}, fastserve-ray {__version__}", *app.notes])
