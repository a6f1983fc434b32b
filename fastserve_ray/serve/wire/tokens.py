"""``/tokenize`` and ``/detokenize``: a model's own tokenizer, in vLLM's form."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from fastserve_ray.serve.wire.base import NonEmpty, WireAnswer, WireRequest
from fastserve_ray.serve.wire.chat import Message
from fastserve_ray.serve.wire.completions import TokenId


class TokenizeRequest(WireRequest):
    """A text, or a conversation as the chat template writes it."""

    model: NonEmpty
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool = True
    """Of a ``prompt``: with what the tokenizer puts around a text. A chat template writes its special tokens itself."""
    add_generation_prompt: bool = True
    """Of ``messages``: end with the beginning of the assistant's answer."""
    return_token_strs: bool = False
    """Tell each token's text too."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("one_of", "send either prompt or messages", {"param": "prompt"})
        return self


class TokenizeAnswer(WireAnswer):
    count: int
    max_model_len: int
    """Tokens of prompt and answer together at most."""
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(WireRequest):
    model: NonEmpty
    tokens: list[TokenId]


class DetokenizeAnswer(WireAnswer):
    prompt: str
    """The text, special tokens included."""
