"""The fields that completions and chat completions share."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.serve.wire.base import (
    NonEmpty,
    StreamOptions,
    WireRequest,
)
from fastserve_ray.spec.access import MAX_CHOICES

MAX_TOP_LOGPROBS = 20
MAX_PRIORITY = 1000
INT64 = 2**63

TokenName = Annotated[str, Field(pattern=r"^\d{1,9}$")]
"""A token id as the key of a JSON object."""


RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]


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
    """Makes the answer reproducible. The first choice of ``n`` is the one that comes without ``n``."""
    stop: NonEmpty | Annotated[list[NonEmpty], Field(max_length=4)] | None = None
    """Up to four texts that end the answer; they are not part of it."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    """Choices for one prompt; default 1."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Whose share of the model the request uses, where the engine's scheduling policy is ``fair``."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Taken off the logit of a token for each time that the answer has it; default 0."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Taken off the logit of a token that the answer has; default 0."""
    logit_bias: dict[TokenName, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """By token id: what is added to its logit."""

    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Draw only from tokens at least this fraction as probable as the most probable one. Like what follows, not in
    OpenAI's API, but in vLLM's."""
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    """Divides the logits of tokens of prompt and answer; default 1."""
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens before which nothing ends the answer; default 0."""
    ignore_eos: bool | None = None
    """Go on after the end-of-sequence token; for measurements."""
    request_id: RequestId | None = None
    """Ends the answer's ``id``, so that it can be found again in logs; default: random."""
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None
    """Requests with a larger one are served first; default 0."""

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "stream_options", "stream_options needs stream to be true", {"param": "stream_options"}
            )
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.include_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def sampling(self) -> SamplingParams:
        """Without ``max_tokens``, whose default depends on the endpoint."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        bias = self.logit_bias or {}
        return SamplingParams(
            min_tokens=self.min_tokens or 0,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k if self.top_k is not None and self.top_k > 0 else None,
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            logit_bias=tuple((int(token), value) for token, value in bias.items() if value),
            seed=self.seed,
            n=self.n or 1,
            stop=stop,
            ignore_eos=bool(self.ignore_eos),
        )
