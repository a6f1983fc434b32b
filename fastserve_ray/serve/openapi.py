"""The OpenAPI document, made to say what the server does where FastAPI cannot know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.serve import sse
from fastserve_ray.serve.wire.base import ErrorAnswer

if TYPE_CHECKING:
    from fastapi import FastAPI

REFUSED: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The request is wrong; the error names the field.",
        401: "An API key is needed, or this one is not known.",
        403: "The API key may not use this model.",
        404: "No such model or path.",
        413: "The body is larger than the server takes.",
        415: "The body is not JSON by its content-type.",
        429: "The API key has used up its requests or tokens; retry-after says when to come back.",
        500: "The server failed.",
        503: "Too many requests, or no replica; retry-after says when to come back.",
        504: "The request took longer than the server allows.",
    }.items()
}
"""Errors of every endpoint."""
PYDANTICS_OWN = ("HTTPValidationError", "ValidationError")
"""FastAPI's shape of a wrong request, with status 422; here it is 400 and an `ErrorAnswer`."""
EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "A chunk as JSON, or `[DONE]` at the end."}},
    "required": ["data"],
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, chunks of it as server-sent events.",
        "content": {sse.MEDIA_TYPE: {"schema": EVENT}},
    }
}
"""Of an endpoint that can stream."""
METRICS_PAGE: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


def describe(app: FastAPI) -> None:
    """Let ``app`` give the corrected document."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _correct(make())
        assert app.openapi_schema is not None, "made above"
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way


def _correct(document: dict[str, Any]) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in PYDANTICS_OWN:
        document["components"]["schemas"].pop(name, None)
