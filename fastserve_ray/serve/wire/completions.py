"""``/v1/completions``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, JsonValue

from fastserve_ray.serve.wire.base import OnlyNeutral, UnsupportedFlag, Usage, WireAnswer
from fastserve_ray.serve.wire.logprobs import CompletionLogprobs
from fastserve_ray.serve.wire.sampling import MAX_TOP_LOGPROBS, SamplingRequest

if TYPE_CHECKING:
    from fastserve_ray.engines.protocol import SamplingParams

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for completions."""
MAX_PROMPTS = 64
"""Prompts in one request at most."""

TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Prompt = str | TokenIds | Annotated[list[str] | list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]


class CompletionRequest(SamplingRequest):
    """Continue one or several prompts."""

    prompt: Prompt
    """A text, tokens, or a list of either."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens to generate for each choice at most; default 16."""

    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """Tell the log probability of each token, and of so many most probable ones."""

    best_of: Annotated[JsonValue, OnlyNeutral((1,))] = None
    echo: UnsupportedFlag = None
    suffix: Annotated[JsonValue, OnlyNeutral(("",))] = None

    @property
    def sampling(self) -> SamplingParams:
        return replace(super().sampling, logprobs=self.logprobs is not None, top_logprobs=self.logprobs or 0)

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        if isinstance(self.prompt, str):
            return (self.prompt,)
        texts = [item for item in self.prompt if isinstance(item, str)]
        if texts:
            return tuple(texts)
        tokens = tuple(item for item in self.prompt if isinstance(item, int))
        return (tokens,) if tokens else tuple(tuple(item) for item in self.prompt if isinstance(item, list))


class CompletionChoice(WireAnswer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None


class CompletionAnswer(WireAnswer):
    """The whole answer, and without ``usage`` a chunk of a stream."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
