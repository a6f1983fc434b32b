"""What all wire models share, and the rule for fields that are known but not supported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

UNSUPPORTED = "unsupported_value"
"""Error type and OpenAI error code of a field that is known but not supported."""


class WireRequest(BaseModel):
    """A request: unknown fields are refused, types are not coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class WireAnswer(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, eq=False)  # typing shares equal annotations, and False equals 0
class OnlyNeutral:
    """Marks a field of OpenAI's API that is not supported: null and values without effect pass, others are refused."""

    values: tuple[JsonValue, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"enum": [None, *self.values], "description": "Not supported but for values without effect."}

    def _check(self, value: JsonValue) -> JsonValue:
        if value is None or any(_is_same(value, neutral) for neutral in self.values):
            return value
        allowed = " or ".join(["null", *(repr(neutral) for neutral in self.values)])
        raise PydanticCustomError(
            UNSUPPORTED, "is not supported by this server; leave it out, or send {allowed}", {"allowed": allowed}
        )


def _is_same(value: JsonValue, other: JsonValue) -> bool:
    """Equality as in JSON, where true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


Unsupported = Annotated[JsonValue, OnlyNeutral(())]
UnsupportedNumber = Annotated[JsonValue, OnlyNeutral((0,))]
UnsupportedFlag = Annotated[JsonValue, OnlyNeutral((False,))]
UnsupportedList = Annotated[JsonValue, OnlyNeutral(([],))]
UnsupportedMap = Annotated[JsonValue, OnlyNeutral(({},))]


class StreamOptions(WireRequest):
    """Options of a stream."""

    include_usage: bool = False
    """Send a last chunk without choices that carries the usage."""
    continuous_usage_stats: bool = False
    """With ``include_usage``: every chunk carries the usage up to it, as in vLLM."""
    include_obfuscation: Annotated[JsonValue, OnlyNeutral((False,))] = None


class Usage(WireAnswer):
    """Tokens read and written for one request, over all its choices."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int = 0) -> Usage:
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )


class ErrorBody(WireAnswer):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(WireAnswer):
    """Body of every answer with a status of 400 or more, and of an error event in a stream."""

    error: ErrorBody


class ModelCard(WireAnswer):
    """One served model."""

    id: str
    object: str = "model"
    created: int
    """Unix time at which it was deployed."""
    owned_by: str = "fastserve-ray"
    task: str
    """What it is for; not in OpenAI's API."""


class ModelList(WireAnswer):
    object: str = "list"
    data: list[ModelCard]


NonEmpty = Annotated[str, Field(min_length=1)]
