"""Applications of several models: routes of your own beside OpenAI's, over the same models.

``serve.application.kind`` names a class that follows `ComposedApplication`. It lives in the process that answers HTTP;
what it asks the models goes the way of any request: the client's key and quota, the deadline, the queue, the metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, Any, Protocol

from fastserve_ray.errors import ServeError
from fastserve_ray.lazy import resolve
from fastserve_ray.serve.wire.chat import ChatRequest
from fastserve_ray.serve.wire.classify import ClassifyRequest
from fastserve_ray.serve.wire.embeddings import EmbeddingRequest
from fastserve_ray.serve.wire.rerank import RerankRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fastapi import APIRouter, FastAPI

    from fastserve_ray.serve.api import Inference
    from fastserve_ray.serve.wire.chat import ChatAnswer
    from fastserve_ray.serve.wire.classify import ClassifyAnswer
    from fastserve_ray.serve.wire.embeddings import EmbeddingAnswer
    from fastserve_ray.serve.wire.rerank import RerankAnswer
    from fastserve_ray.spec.serve import ApplicationSpec

KEY = "serve.application"
RETRY_S = 1.0
"""Between two tries to start an application whose models are not loaded yet."""


class Models:
    """The application's models, by their names in ``/v1/models``.

    Every method takes the fields of the endpoint's request and gives the endpoint's answer. They raise `RequestFailed`,
    which becomes an answer in OpenAI's shape of errors if you let it pass.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._inference.gateway.models)

    async def chat(self, **fields: Any) -> ChatAnswer:
        """As ``/v1/chat/completions`` without ``stream``."""
        return await self._inference.chat(ChatRequest.model_validate(fields))

    async def classify(self, **fields: Any) -> ClassifyAnswer:
        """As ``/v1/classify``."""
        return await self._inference.classify(ClassifyRequest.model_validate(fields))

    async def embed(self, **fields: Any) -> EmbeddingAnswer:
        """As ``/v1/embeddings``."""
        return await self._inference.embed(EmbeddingRequest.model_validate(fields))

    async def rerank(self, **fields: Any) -> RerankAnswer:
        """As ``/v1/rerank``."""
        return await self._inference.rerank(RerankRequest.model_validate(fields))


class ComposedApplication(Protocol):
    """What ``serve.application.kind`` names; made with the models, and the settings by their names."""

    async def start(self) -> None:
        """What must be done before the first request, such as filling an index; the models can be asked. It is called
        again after a failure, and ``/ready`` waits for it."""
        ...

    def routes(self) -> APIRouter:
        """Of FastAPI; mounted beside the standard endpoints."""
        ...


class Starter:
    """Runs `ComposedApplication.start` beside the server, until it succeeds."""

    def __init__(self, application: ComposedApplication) -> None:
        self._application = application
        self.is_ready = False
        self.error = "it is starting"

    @contextlib.asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Of the ASGI application."""
        task = asyncio.create_task(self._start())
        try:
            yield
        finally:
            task.cancel()

    async def _start(self) -> None:
        while not self.is_ready:
            try:
                await self._application.start()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next try may do better; /ready tells it
                self.error = f"{type(error).__name__}: {error}"
                await asyncio.sleep(RETRY_S)
            else:
                self.is_ready = True


def load_application(spec: ApplicationSpec) -> Callable[..., ComposedApplication]:
    """The class, which must take the settings.

    Raises:
        UnknownNameError: it cannot be imported.
        ServeError: it does not take these settings.
    """
    found: Callable[..., ComposedApplication] = resolve(spec.kind, what="the application", key=f"{KEY}.kind")
    parameters = inspect.signature(found).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    names = [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD][1:]
    unknown = sorted(set(spec.settings) - set(names))
    needed = [name for name in names if parameters[name].default is inspect.Parameter.empty]
    missing = sorted(set(needed) - set(spec.settings))
    if (unknown and not takes_all) or missing:
        raise ServeError(
            f"{spec.kind} does not take these settings" if unknown else f"{spec.kind} needs more settings",
            value=", ".join(unknown or missing),
            allowed=", ".join(names) or "none",
            key=f"{KEY}.settings",
        )
    return found
