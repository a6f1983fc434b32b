"""The fields that completions and chat completions share."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.serve.wire.base import (
    NonEmpty,
    OnlyNeutral,
    StreamOptions,
    UnsupportedMap,
    UnsupportedNumber,
    WireRequest,
)

MAX_CHOICES = 16
"""Choices for one prompt at most."""
INT64 = 2**63


class SamplingRequest(WireRequest):
    """How to sample, when to stop, and how to answer."""

    model: NonEmpty
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 is greedy; default 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus sampling; default 1."""
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """Draw from so many most probable tokens only; -1, 0 or null: from all. Not in OpenAI's API, but widespread."""
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    """Makes the answer reproducible. Further choices (``n``) draw with seed + 1, seed + 2 and so on."""
    stop: NonEmpty | Annotated[list[NonEmpty], Field(max_length=4)] | None = None
    """Up to four texts that end the answer; they are not part of it."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    """Choices for one prompt; default 1."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Accepted and without effect."""

    frequency_penalty: UnsupportedNumber = None
    presence_penalty: UnsupportedNumber = None
    logit_bias: UnsupportedMap = None
    min_p: UnsupportedNumber = None
    repetition_penalty: Annotated[JsonValue, OnlyNeutral((1,))] = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "stream_options", "stream_options needs stream to be true", {"param": "stream_options"}
            )
        return self

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def sampling(self) -> SamplingParams:
        """Without ``max_tokens``, whose default depends on the endpoint."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k if self.top_k is not None and self.top_k > 0 else None,
            seed=self.seed,
            stop=stop,
        )
