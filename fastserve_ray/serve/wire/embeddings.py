"""``/v1/embeddings``: a vector for each text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastserve_ray.serve.wire.base import NonEmpty, Usage, WireAnswer, WireRequest
from fastserve_ray.serve.wire.completions import TokenIds

MAX_INPUTS = 2048
"""Texts in one request at most; OpenAI's limit."""

Input = NonEmpty | TokenIds | Annotated[list[NonEmpty] | list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)]


class EmbeddingRequest(WireRequest):
    """Turn one or several texts into vectors."""

    model: NonEmpty
    input: Input
    """A text, tokens, or a list of either. Tokens are read as they are, without the model's special ones."""
    encoding_format: Literal["float", "base64"] | None = None
    """base64: of little-endian float32; default float."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Keep so many numbers of each vector, the first ones, and make its length 1 again; for models trained so that a
    vector's beginning is a vector too (Kusupati et al., arXiv 2205.13147). Default: all."""
    user: str | None = None
    """Accepted and without effect."""
    truncate_prompt_tokens: Literal[-1] | None = None
    """-1: cut texts that are longer than the model reads at their end. Default: they are refused. Not in OpenAI's API,
    but in vLLM's."""

    @property
    def inputs(self) -> tuple[str | tuple[int, ...], ...]:
        if isinstance(self.input, str):
            return (self.input,)
        texts = [item for item in self.input if isinstance(item, str)]
        if texts:
            return tuple(texts)
        tokens = tuple(item for item in self.input if isinstance(item, int))
        return (tokens,) if tokens else tuple(tuple(item) for item in self.input if isinstance(item, list))


class EmbeddingItem(WireAnswer):
    object: Literal["embedding"] = "embedding"
    index: int
    """Of the text in ``input``."""
    embedding: list[float] | str


class EmbeddingAnswer(WireAnswer):
    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddingItem]
    usage: Usage
