"""``/v1/chat/completions``."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from fastserve_ray.serve.tool_calls import AutoReader, NamedReader, Reader, TextReader
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
from fastserve_ray.serve.wire.tools import (
    MAX_TOOLS,
    AnswerToolCall,
    MessageToolCall,
    NamedTool,
    Tool,
    ToolCallFragment,
    ToolChoice,
    forced_calls,
)

if TYPE_CHECKING:
    from fastserve_ray.engines.protocol import Constraint, SamplingParams


class TextPart(WireRequest):
    type: Literal["text"]
    text: str


class Message(WireRequest):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1)] | None = None
    """May be left out where the assistant called tools."""
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    """Of the assistant."""
    tool_call_id: str | None = None
    """Of a tool's message: the call that it answers."""
    refusal: str | None = None
    """Of an assistant's message that is sent back as it came; without effect."""

    @model_validator(mode="after")
    def _check_role(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("content", "a message without tool calls needs content")
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("tool_calls", "only the assistant calls tools")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise PydanticCustomError("tool_call_id", "a tool's message, and no other, needs tool_call_id")
        for call in self.tool_calls or ():
            call.for_template()
        return self

    def for_template(self) -> dict[str, object]:
        """As chat templates expect it: one text, and ``developer`` under its older name ``system``."""
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "\n".join(part.text for part in parts)
        message: dict[str, object] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_calls:
            message["tool_calls"] = [call.for_template() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


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

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    """Functions that the answer may call. The model's chat template shows them to it."""
    tool_choice: ToolChoice | None = None
    """none, auto (default: the model decides), required (at least one call), or the one function to call. The last two
    are made sure of by the grammar of the answer."""
    parallel_tool_calls: bool | None = None
    """With ``tool_choice: required``: whether there may be several calls; default true."""

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
        self._check_tools()
        return self

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise PydanticCustomError("tools", "two tools have one name", {"param": "tools"})
        if self.is_call_forced and not names:
            raise PydanticCustomError("tool_choice", "tool_choice needs tools", {"param": "tool_choice"})
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise PydanticCustomError(
                "tool_choice",
                "there is no tool {name}; there are: {names}",
                {"param": "tool_choice", "name": self.tool_choice.function.name, "names": ", ".join(names)},
            )
        is_free = self.response_format is None or self.response_format.constraint is None
        if self.is_call_forced and not is_free:
            raise PydanticCustomError(
                "conflict",
                "the answer cannot be a forced tool call and of a response format too; send one of them",
                {"param": "response_format"},
            )
        _ = self.forced_constraint

    @property
    def offered_tools(self) -> tuple[Tool, ...]:
        """Those that the answer may call."""
        return () if self.tool_choice == "none" else tuple(self.tools or ())

    @property
    def is_call_forced(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    def reader(self) -> Reader:
        """What tells calls from text in one choice."""
        if isinstance(self.tool_choice, NamedTool):
            return NamedReader(self.tool_choice.function.name)
        names = [tool.function.name for tool in self.offered_tools]
        return AutoReader(names) if names else TextReader()

    @cached_property
    def forced_constraint(self) -> Constraint | None:
        is_parallel = self.parallel_tool_calls is not False
        return forced_calls(self.offered_tools, self.tool_choice or "auto", is_parallel=is_parallel)

    @property
    def sampling(self) -> SamplingParams:
        constraint = self.forced_constraint
        if constraint is None and self.response_format is not None:
            constraint = self.response_format.constraint
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
    content: str | None
    refusal: None = None


class CallingMessage(AnswerMessage):
    """Calls tools."""

    tool_calls: list[AnswerToolCall]


class ChatChoice(WireAnswer):
    index: int
    message: CallingMessage | AnswerMessage
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
    tool_calls: list[ToolCallFragment] | None = None


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
