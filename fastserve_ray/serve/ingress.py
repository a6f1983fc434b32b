"""The ingress deployment: the HTTP face in a process of its own, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import serve

from fastserve_ray.serve.api import build_api
from fastserve_ray.serve.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI

    from fastserve_ray.serve.gateway import ServedModel


@serve.ingress()
class Ingress:
    """Args:
    models: what is served.
    handles: Serve's handle of each model's deployment, in the same order.
    """

    def __init__(self, models: Sequence[ServedModel], *handles: Any) -> None:
        names = [model.name for model in models]
        self._gateway = Gateway(dict(zip(names, models, strict=True)), dict(zip(names, handles, strict=True)))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._gateway)
