"""``response_format``: what a chat's answer must be."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from fastserve_ray.engines.protocol import Constraint, JsonObject, JsonSchema
from fastserve_ray.serve.wire.base import NonEmpty, WireRequest


class TextFormat(WireRequest):
    type: Literal["text"]

    @property
    def constraint(self) -> Constraint | None:
        return None


class JsonObjectFormat(WireRequest):
    type: Literal["json_object"]

    @property
    def constraint(self) -> Constraint | None:
        return JsonObject()


class NamedSchema(WireRequest):
    """A JSON schema as OpenAI wraps it."""

    name: NonEmpty
    description: str | None = None
    strict: bool | None = None
    """Without effect: answers always fulfil the schema."""
    body: Annotated[dict[str, JsonValue], Field(alias="schema")]


class JsonSchemaFormat(WireRequest):
    type: Literal["json_schema"]
    json_schema: NamedSchema

    @property
    def constraint(self) -> Constraint | None:
        return JsonSchema(json.dumps(self.json_schema.body))


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
