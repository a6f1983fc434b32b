"""The ingress deployment: the HTTP face in a process of its own, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from fastserve_ray.serve.api import build_api
from fastserve_ray.serve.auth.access import Access
from fastserve_ray.serve.gateway import Gateway
from fastserve_ray.serve.quota.admission import Admission
from fastserve_ray.serve.quota.keeper import SharedKeeper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI

    from fastserve_ray.serve.gateway import ServedModel
    from fastserve_ray.spec.serve import ApplicationSpec


@serve.ingress()
class Ingress:
    """Args:
    models: what is served.
    handles: Serve's handle of each model's deployment, in the same order.
    access: who may ask.
    ledger: Serve's handle of the ledger of quotas, where keys are asked for.
    application: whose routes are served too.
    contents: what the application was built from, for whom it is replaced by.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *handles: Any,
        access: Access | None = None,
        ledger: Any = None,
        application: ApplicationSpec | None = None,
        contents: Any = None,
    ) -> None:
        self._application = application
        self._contents = contents
        names = [model.name for model in models]
        self._access = access or Access()
        keeper = None if ledger is None else SharedKeeper(ledger)
        for handle in handles:
            handle._init(_run_router_in_separate_loop=False)  # with fewer changes of thread; Serve has no public way
        self._gateway = Gateway(
            dict(zip(names, models, strict=True)),
            dict(zip(names, handles, strict=True)),
            Admission(keeper),
            caller=ray.get_runtime_context().get_actor_id(),
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._gateway, access=self._access, application=self._application)

    async def contents(self) -> Any:
        """What the application was built from."""
        return self._contents
