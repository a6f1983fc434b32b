"""What crosses from the ingress to a replica and back. Plain values, cheap to pickle; no ray, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastserve_ray.engines.protocol import FinishReason, Prediction, SamplingParams, Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.serve.routing.work import ExpectedWork


@dataclass(frozen=True)
class GenerateCall:
    """One request for text: ``sampling.n`` completions of each of ``prompts``, or of one conversation."""

    request_id: str
    prompts: tuple[str | tuple[int, ...], ...] = ()
    """Texts, or tokens."""
    messages: tuple[Mapping[str, object], ...] | None = None
    """A conversation for the model's chat template, instead of ``prompts``."""
    tools: tuple[Mapping[str, object], ...] = ()
    """Functions for the chat template to show."""
    constraint_field: str = "response_format"
    """The request's field that ``sampling.constraint`` comes from, for error messages."""
    max_tokens: int | None = None
    """For each choice; None: what the model's context leaves."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    """``max_tokens`` in it is not used."""
    priority: int = 0
    share_key: str = ""
    share_weight: float = 1.0
    work: ExpectedWork | None = None
    """What the gateway expects of it, for routers and for the replica's account of its load."""
    max_prompt_tokens: int | None = None
    """A longer prompt is refused; None: what the model's context takes."""
    timeout_s: float | None = None
    """From the call's arrival in the replica until its deadline."""
    caller: str | None = None
    """Id of the Ray actor that waits for the answer; with its end the call ends."""

    @property
    def prompt_field(self) -> str:
        """The request's field that holds the prompt, for error messages."""
        return "prompt" if self.messages is None else "messages"


@dataclass(frozen=True)
class TokenizeCall:
    prompt: str = ""
    messages: tuple[Mapping[str, object], ...] | None = None
    """A conversation for the chat template, instead of ``prompt``."""
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    with_texts: bool = False


@dataclass(frozen=True)
class Tokenized:
    token_ids: tuple[int, ...]
    texts: tuple[str, ...] | None
    """Of each token, where the call asks for them."""
    max_model_len: int


@dataclass(frozen=True)
class DetokenizeCall:
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class ClassifyCall:
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class EmbedCall:
    texts: tuple[str | tuple[int, ...], ...]
    """As text, or in tokens."""
    dimensions: int | None = None
    """To keep of each vector; None: all."""
    cuts: bool = False
    """Whether texts that are too long are cut; refused otherwise."""


@dataclass(frozen=True)
class Embedded:
    vectors: tuple[bytes, ...]
    """Each float32, little-endian."""
    num_tokens: int


@dataclass(frozen=True)
class ScoredToken:
    """A token and how probable the model found it."""

    data: bytes
    """Of its text; a character's bytes may be spread over tokens."""
    logprob: float

    @property
    def text(self) -> str:
        """Bytes that are no whole characters are written out as OpenAI does, so that tokens stay apart."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.data)


@dataclass(frozen=True)
class PlaceLogprobs:
    """One place of a completion."""

    token: ScoredToken
    top: tuple[ScoredToken, ...] = ()
    """The most probable tokens, descending."""


@dataclass(frozen=True)
class Piece:
    """New text of one choice."""

    index: int
    """Of the choice: prompt by prompt, and for each prompt choice by choice."""
    text: str
    finish_reason: FinishReason | None = None
    logprobs: tuple[PlaceLogprobs, ...] = ()
    """Of the new tokens, when they were asked for."""


@dataclass(frozen=True)
class Frame:
    """What a replica sends at once: new text of one or several choices."""

    pieces: tuple[Piece, ...]
    """None: a sign of life."""
    num_prompt_tokens: int
    """Over all prompts."""
    num_completion_tokens: int
    """Over all choices, so far."""
    first_token_s: float | None = None
    """Seconds from the call's arrival in the replica to its first token; in the first frame."""
    queue_s: float | None = None
    """Of them, before the engine's first step for it; in the first frame."""
    last_token_s: float | None = None
    """Seconds from the call's arrival in the replica to the newest token of this frame."""


@dataclass(frozen=True)
class Classified:
    predictions: tuple[Prediction, ...]
    num_tokens: int
    labels: tuple[str, ...]


@dataclass(frozen=True)
class GateLoad:
    """What waits at the gate of a process that answers HTTP."""

    sender: str
    """That process."""
    num_tokens: float
    """One replica's part of it."""


@dataclass(frozen=True)
class ReplicaStatus:
    """One replica's facts and gauges."""

    replica: str
    num_requests_running: int
    num_requests_waiting: int
    kv_tokens_used: int = 0
    kv_tokens_capacity: int = 0
    has_chat_template: bool = False
    max_model_len: int | None = None
    num_requests_swapped: int = 0
    num_preemptions: int = 0
    """Since the start; so are those below."""
    prefix_query_tokens: int = 0
    """Prompt tokens that were looked up in the cache."""
    prefix_hit_tokens: int = 0
    start_seconds: Mapping[str, float] = field(default_factory=dict)
    """How long each phase of its start took; see `cold_start`."""

    @property
    def kv_usage(self) -> float:
        """0 to 1."""
        return self.kv_tokens_used / self.kv_tokens_capacity if self.kv_tokens_capacity else 0.0
