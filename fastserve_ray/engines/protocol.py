"""The two protocols of an inference engine, and the values that cross them.

A *generate* engine owns many requests at once and is stepped; a *batch* engine maps inputs to predictions in one
call. Neither knows Ray, HTTP or asyncio, so that an engine can be tested and measured on its own.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class JsonObject:
    """The completion is any JSON object."""


@dataclass(frozen=True)
class JsonSchema:
    """The completion is JSON that fulfils a schema."""

    schema: str
    """As JSON text."""


@dataclass(frozen=True)
class Regex:
    """The whole completion matches a regular expression (Rust's syntax, without look-around)."""

    pattern: str


@dataclass(frozen=True)
class Grammar:
    """The whole completion belongs to a context-free language."""

    text: str
    """In llguidance's dialect of Lark."""


Constraint = JsonObject | JsonSchema | Regex | Grammar


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is drawn. Names and meanings are those of OpenAI's API, or of transformers where it has none.

    Applied in this order, which is transformers': logit_bias, repetition_penalty, presence and frequency penalties,
    min_tokens, constraint, temperature, top_k, top_p, min_p.
    """

    max_tokens: int = 16
    """Tokens to generate at most; at least 1."""
    min_tokens: int = 0
    """Tokens before which neither an end-of-sequence token nor a stop text ends the completion."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling (Holtzman et al. 2020): the smallest set of tokens with this probability mass."""
    top_k: int | None = None
    """Draw from so many most probable tokens only."""
    min_p: float = 0.0
    """Only tokens at least this fraction as probable as the most probable one (Nguyen et al., arXiv 2407.01082)."""
    presence_penalty: float = 0.0
    """Taken off the logit of a token that the completion has already; -2 to 2."""
    frequency_penalty: float = 0.0
    """Taken off the logit of a token for each time that the completion has it; -2 to 2."""
    repetition_penalty: float = 1.0
    """Divides the logit, if it is positive, of tokens of prompt and completion, and multiplies it if not (Keskar et
    al., arXiv 1909.05858)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit); -100 to 100."""
    seed: int | None = None
    """Makes the draw reproducible, whatever else is in the batch."""
    n: int = 1
    """Completions of the prompt; each draws its own tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end the completion; they are not part of it."""
    ignore_eos: bool = False
    """Go on after the end-of-sequence token; for measurements."""
    logprobs: bool = False
    """Tell the log probability of each token, in the model's own distribution: before all of the above."""
    top_logprobs: int = 0
    """With ``logprobs``: also the most probable tokens at each place, so many; at most 20."""
    constraint: Constraint | None = None
    """What the completion must be as a whole, if it is not cut short by ``max_tokens``."""

    @property
    def changes_logits(self) -> bool:
        """Whether more than temperature, top_k, top_p and min_p decides."""
        return bool(
            self.logit_bias
            or self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
            or self.min_tokens
            or self.constraint is not None
        )


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithms of probabilities at one place of the completion."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token, log probability) of the most probable ones, descending."""


@dataclass(frozen=True)
class GenerateRequest:
    """One prompt in tokens."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    """Requests with a larger one are served first, whatever the policy."""
    share_key: str = ""
    """Whose share of the engine it uses, for the policy "fair"; a user's or tenant's name."""
    share_weight: float = 1.0
    """Of ``share_key``, against the weights of others, unless the engine's own settings name another."""
    expected_tokens: int | None = None
    """How long the completion will be, where the caller knows or predicts it, for the policy "srpt"."""


@dataclass(frozen=True)
class GenerateDelta:
    """What one step added to one request."""

    request_id: str
    text: str
    """New text that is final: whole characters, and no beginning of a stop string."""
    token_ids: tuple[int, ...]
    """New tokens."""
    num_prompt_tokens: int
    num_completion_tokens: int
    """All tokens generated so far, of this completion."""
    finish_reason: FinishReason | None = None
    """Set in the last delta of a completion."""
    error: str | None = None
    """Why, when ``finish_reason`` is "error"."""
    index: int = 0
    """Which of the request's ``n`` completions."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of each of ``token_ids``, when the request asks for them."""
    queue_s: float | None = None
    """Seconds that the request waited for its first step, where the engine knows."""


@dataclass(frozen=True)
class EngineStats:
    """Gauges of an engine, read between steps."""

    num_running: int
    """Completions that have begun; some may be waiting for their next turn."""
    num_waiting: int
    """Completions that hold nothing in the KV cache."""
    num_outstanding_tokens: int
    """Prompt tokens not yet read and completion tokens still allowed, over all requests."""
    kv_tokens_used: int
    kv_tokens_total: int
    num_steps: int
    num_generated_tokens: int
    num_swapped: int = 0
    """Begun completions whose keys and values are in the host pool."""
    num_preemptions: int = 0
    """Times that a completion had to wait after it had run, since the start; so are those below."""
    num_swapped_blocks: int = 0
    """KV blocks moved to the host pool or back."""
    num_dropped_tokens: int = 0
    """Keys and values that were given up and read again."""
    prefix_hit_tokens: int = 0
    """Prompt tokens that were not read because the cache had them, of ``prompt_tokens``."""
    prompt_tokens: int = 0
    seconds_swapping: float = 0.0
    """Time that steps waited for swaps."""


class GenerateEngine(Protocol):
    """Continuous batching: requests join and leave between steps. Not thread-safe; one thread owns it."""

    @property
    def tokenizer(self) -> object:
        """The model's Hugging Face tokenizer."""
        ...

    @property
    def max_model_len(self) -> int:
        """Prompt and completion together, in tokens."""
        ...

    def add_request(self, request: GenerateRequest) -> None:
        """Queue a request.

        Raises:
            EngineFullError: too many requests are waiting.
            EngineError: the prompt is empty or does not fit ``max_model_len``, or the id is in use.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Drop a request and free what it holds before the next step; an unknown id is ignored."""
        ...

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        ...

    def step(self) -> list[GenerateDelta]:
        """Schedule, run, postprocess: at most one token for each running completion."""
        ...

    def stats(self) -> EngineStats: ...


Text = str | tuple[str, str]
"""A text, or two that a classifier reads as a pair, such as a query and a document."""


@dataclass(frozen=True)
class Prediction:
    """One classified input."""

    label: str
    label_id: int
    scores: tuple[float, ...]
    """Probability of every label, in the order of their ids; they add up to 1. A model with a single label scores: its
    number alone, between 0 and 1, by the logistic function."""


@runtime_checkable
class BatchEngine(Protocol):
    """Inputs to predictions, in one call. A prediction does not depend on what else is in the call."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """Classify ``texts``; those longer than the model's limit are cut at the end, of a pair the longer one."""
        ...

    def count_tokens(self, text: Text) -> int:
        """Tokens of ``text`` as the model reads it, after cutting."""
        ...


@dataclass(frozen=True)
class Embedding:
    """One text as a vector."""

    data: bytes
    """float32, little-endian."""

    @property
    def numbers(self) -> tuple[float, ...]:
        return struct.unpack(f"<{len(self.data) // 4}f", self.data)


@runtime_checkable
class EmbeddingEngine(Protocol):
    """Texts to vectors, in one call. A vector does not depend on what else is in the call."""

    @property
    def dimensions(self) -> int:
        """Numbers of a vector."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens of a text at most."""
        ...

    @property
    def vocabulary(self) -> int:
        """Tokens that the model knows."""
        ...

    def encode(self, inputs: Sequence[str | tuple[int, ...]], *, cuts: bool = False) -> list[tuple[int, ...]]:
        """Texts as tokens, with the model's special ones; tokens stay as they are.

        Args:
            cuts: whether what is longer than `max_length` is cut at its end.
        """
        ...

    def embed(self, rows: Sequence[tuple[int, ...]]) -> list[Embedding]:
        """Vectors of texts in tokens, none empty or longer than `max_length`."""
        ...


AnyEngine = GenerateEngine | BatchEngine | EmbeddingEngine
