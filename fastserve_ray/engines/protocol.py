"""The two protocols of an inference engine, and the values that cross them.

A *generate* engine owns many requests at once and is stepped; a *batch* engine maps inputs to predictions in one
call. Neither knows Ray, HTTP or asyncio, so that an engine can be tested and measured on its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is drawn. Names and meanings are those of OpenAI's API."""

    max_tokens: int = 16
    """Tokens to generate at most; at least 1."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling (Holtzman et al. 2020): the smallest set of tokens with this probability mass."""
    top_k: int | None = None
    """Draw from so many most probable tokens only."""
    seed: int | None = None
    """Makes the draw reproducible, whatever else is in the batch."""
    stop: tuple[str, ...] = ()
    """Texts that end the completion; they are not part of it."""
    n: int = 1
    """Completions of the prompt; each draws its own tokens."""
    min_tokens: int = 0
    """Tokens before which neither an end-of-sequence token nor a stop text ends the completion."""
    ignore_eos: bool = False
    """Go on after the end-of-sequence token; for measurements."""


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


@dataclass(frozen=True)
class Prediction:
    """One classified input."""

    label: str
    label_id: int
    scores: tuple[float, ...]
    """Probability of every label, in the order of their ids; they add up to 1."""


@runtime_checkable
class BatchEngine(Protocol):
    """Inputs to predictions, in one call. A prediction does not depend on what else is in the call."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Classify ``texts``; inputs longer than the model's limit are cut at the end."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` as the model reads it, after cutting."""
        ...
