"""Drive a generate engine to the end of a list of requests, without threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_ray.engines.protocol import GenerateRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.protocol import (
        FinishReason,
        GenerateDelta,
        GenerateEngine,
        SamplingParams,
        TokenLogprob,
    )


@dataclass(frozen=True)
class Completion:
    """All of one completion; a request with ``n`` has so many."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_completion_tokens: int
    error: str | None = None
    """Why, when ``finish_reason`` is "error"."""
    index: int = 0
    """Which of the request's completions."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of each token, when the request asks for them."""


def generate_all(engine: GenerateEngine, requests: Sequence[GenerateRequest]) -> list[Completion]:
    """Run ``requests`` together; the results come in their order, the ``n`` of one request side by side.

    The calling thread steps the engine, so no other thread may own it at the same time. When a request is refused,
    those already queued are cancelled.

    Raises:
        EngineError: a request cannot be accepted, or a step failed.
    """
    deltas: dict[tuple[str, int], list[GenerateDelta]] = {}
    try:
        for request in requests:
            engine.add_request(request)
            deltas.update({(request.request_id, index): [] for index in range(request.sampling.n)})
        while engine.has_work():
            for delta in engine.step():
                if (delta.request_id, delta.index) in deltas:
                    deltas[delta.request_id, delta.index].append(delta)
    except BaseException:
        for request_id, _ in deltas:
            engine.cancel(request_id)
        raise
    return [_completion(its) for its in deltas.values()]


def complete_texts(engine: GenerateEngine, texts: Sequence[str], sampling: SamplingParams) -> list[Completion]:
    """Tokenize ``texts`` and complete them together; ``sampling.n`` completions of each, side by side.

    Raises:
        EngineError: a text cannot be accepted, or a step failed.
    """
    tokenizer: Any = engine.tokenizer
    return generate_all(
        engine,
        [GenerateRequest(str(at), tuple(tokenizer(text)["input_ids"]), sampling) for at, text in enumerate(texts)],
    )


def _completion(deltas: Sequence[GenerateDelta]) -> Completion:
    last = deltas[-1]
    assert last.finish_reason is not None, "an engine without work left has ended every request"
    return Completion(
        request_id=last.request_id,
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token for delta in deltas for token in delta.token_ids),
        finish_reason=last.finish_reason,
        num_prompt_tokens=last.num_prompt_tokens,
        num_completion_tokens=last.num_completion_tokens,
        error=last.error,
        index=last.index,
        logprobs=tuple(logprob for delta in deltas for logprob in delta.logprobs),
    )
