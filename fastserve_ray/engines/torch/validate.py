"""What a request must fulfil before the engine takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Container

    from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams

MAX_PENALTY, MAX_BIAS, MAX_TOP_LOGPROBS, MAX_COMPLETIONS = 2.0, 100.0, 20, 128
"""OpenAI's bounds."""


def check_request(request: GenerateRequest, *, vocab_size: int, max_model_len: int, known: Container[str]) -> None:
    """Raises:
    EngineError: the first thing that is wrong with ``request``.
    """
    prompt = request.prompt_token_ids
    if request.request_id in known:
        raise EngineError("a request with this id is in the engine", value=request.request_id, key="request_id")
    if not prompt:
        raise EngineError("the prompt is empty", allowed="at least one token", key="prompt")
    if len(prompt) >= max_model_len:
        raise EngineError(
            "the prompt leaves no room for a completion",
            value=f"{len(prompt)} tokens",
            allowed=f"at most {max_model_len - 1} tokens",
            key="prompt",
        )
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        raise EngineError(
            "a prompt token is not in the vocabulary",
            value=min(prompt) if min(prompt) < 0 else max(prompt),
            allowed=f"0 to {vocab_size - 1}",
            key="prompt",
        )
    check_sampling(request.sampling, vocab_size)


def check_sampling(sampling: SamplingParams, vocab_size: int) -> None:
    """Raises:
    EngineError: a parameter is out of its bounds.
    """
    tokens = [token for token, _ in sampling.logit_bias]
    biases = [bias for _, bias in sampling.logit_bias]
    rules: tuple[tuple[str, object, bool, str], ...] = (
        ("max_tokens", sampling.max_tokens, sampling.max_tokens >= 1, "at least 1"),
        ("min_tokens", sampling.min_tokens, 0 <= sampling.min_tokens <= sampling.max_tokens, "0 to max_tokens"),
        ("temperature", sampling.temperature, 0 <= sampling.temperature < float("inf"), "0 (greedy) or more"),
        ("top_p", sampling.top_p, 0 < sampling.top_p <= 1, "more than 0, at most 1"),
        ("top_k", sampling.top_k, sampling.top_k is None or sampling.top_k >= 1, "at least 1"),
        ("min_p", sampling.min_p, 0 <= sampling.min_p <= 1, "0 to 1"),
        ("presence_penalty", sampling.presence_penalty, abs(sampling.presence_penalty) <= MAX_PENALTY, "-2 to 2"),
        ("frequency_penalty", sampling.frequency_penalty, abs(sampling.frequency_penalty) <= MAX_PENALTY, "-2 to 2"),
        (
            "repetition_penalty",
            sampling.repetition_penalty,
            0 < sampling.repetition_penalty < float("inf"),
            "more than 0; 1 changes nothing",
        ),
        ("logit_bias", biases, all(abs(bias) <= MAX_BIAS for bias in biases), "-100 to 100"),
        ("logit_bias", tokens, all(0 <= token < vocab_size for token in tokens), f"tokens 0 to {vocab_size - 1}"),
        ("n", sampling.n, 1 <= sampling.n <= MAX_COMPLETIONS, f"1 to {MAX_COMPLETIONS}"),
        (
            "top_logprobs",
            sampling.top_logprobs,
            0 <= sampling.top_logprobs <= (MAX_TOP_LOGPROBS if sampling.logprobs else 0),
            f"0 to {MAX_TOP_LOGPROBS}, with logprobs",
        ),
    )
    for key, value, is_valid, allowed in rules:
        if not is_valid:
            raise EngineError(f"{key} is out of bounds", value=value, allowed=allowed, key=key)
