"""``/v1/chat/completions``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from fastserve_ray.serve.wire.base import (
    OnlyNeutral,
    Unsupported,
    UnsupportedFlag,
    UnsupportedList,
    UnsupportedMap,
    Usage,
    WireAnswer,
    WireRequest,
)
from fastserve_ray.serve.wire.formats import ResponseFormat
from fastserve_ray.serve.wire.logprobs import ChatLogprobs
from fastserve_ray.serve.wire.sampling import MAX_TOP_LOGPROBS, SamplingRequest

if TYPE_CHECKING:
    from fastserve_ray.engines.protocol import SamplingParams


class TextPart(WireRequest):
    type: Literal["text"]
    text: str


class Message(WireRequest):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None

    def for_template(self) -> dict[str, str]:
        """As chat templates expect it: one text, and ``developer`` under its older name ``system``."""
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        message = {"role": "system" if self.role == "developer" else self.role, "content": text}
        return message if self.name is None else {**message, "name": self.name}


class ChatRequest(SamplingRequest):
    """Answer a conversation."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens to generate for each choice at most; default: what the model's context leaves."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of ``max_completion_tokens``."""

    logprobs: bool | None = None
    """Tell the log probability of each token."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """With ``logprobs``: also of so many most probable ones."""
    response_format: ResponseFormat | None = None
    """What the answer must be as a whole, unless the token limit cuts it short."""

    tools: UnsupportedList = None
    tool_choice: Annotated[JsonValue, OnlyNeutral(("none",))] = None
    parallel_tool_calls: Annotated[JsonValue, OnlyNeutral((False, True))] = None
    functions: UnsupportedList = None
    function_call: Annotated[JsonValue, OnlyNeutral(("none",))] = None
    modalities: Annotated[JsonValue, OnlyNeutral((["text"],))] = None
    audio: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Annotated[JsonValue, OnlyNeutral(("none",))] = None
    service_tier: Annotated[JsonValue, OnlyNeutral(("auto", "default"))] = None
    store: UnsupportedFlag = None
    metadata: UnsupportedMap = None

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise PydanticCustomError(
                "conflict", "max_tokens and max_completion_tokens differ; send one of them", {"param": "max_tokens"}
            )
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError(
                "top_logprobs", "top_logprobs needs logprobs to be true", {"param": "top_logprobs"}
            )
        return self

    @property
    def sampling(self) -> SamplingParams:
        constraint = None if self.response_format is None else self.response_format.constraint
        return replace(
            super().sampling,
            logprobs=bool(self.logprobs),
            top_logprobs=self.top_logprobs or 0,
            constraint=constraint,
        )

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class AnswerMessage(WireAnswer):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(WireAnswer):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None


class ChatAnswer(WireAnswer):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(WireAnswer):
    """What a chunk adds; fields that are not set are left out."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(WireAnswer):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatChunk(WireAnswer):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
