"""What a call is expected to cost."""

from __future__ import annotations

import pytest

from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.serve.calls import Frame, GenerateCall
from fastserve_ray.serve.routing.work import FIRST_COMPLETION_TOKENS, WorkEstimate


def call(prompt: str | tuple[int, ...], *, max_tokens: int | None = None, n: int = 1) -> GenerateCall:
    return GenerateCall("r", prompts=(prompt,), max_tokens=max_tokens, sampling=SamplingParams(n=n))


def test_before_anything_is_known() -> None:
    work = WorkEstimate().expect(call("a" * 400))
    assert (work.num_prompt_tokens, work.num_completion_tokens) == (100.0, FIRST_COMPLETION_TOKENS)
    assert WorkEstimate().expect(call((1, 2, 3), max_tokens=7, n=2)).num_completion_tokens == 14.0
    assert WorkEstimate().expect(call((1, 2, 3))).num_prompt_tokens == 3.0


def test_a_conversation_counts_what_its_messages_say() -> None:
    conversation = GenerateCall(
        "r", messages=({"role": "user", "content": "x" * 40}, {"role": "user", "content": None})
    )
    assert WorkEstimate().expect(conversation).num_prompt_tokens == 10.0


def test_it_learns_the_models_tokens_and_its_answers_length() -> None:
    estimate = WorkEstimate()
    for _ in range(3):
        estimate.learn(call("a" * 600, n=2), Frame((), num_prompt_tokens=200, num_completion_tokens=40))
    work = estimate.expect(call("b" * 300, max_tokens=1000))
    assert work.num_prompt_tokens == pytest.approx(100.0)
    assert work.num_completion_tokens == pytest.approx(20.0)
    assert estimate.expect(call("b", max_tokens=5)).num_completion_tokens == 5.0


def test_it_follows_a_change() -> None:
    estimate = WorkEstimate()
    for tokens in [10] * 1000 + [50] * 500:
        estimate.learn(call("a"), Frame((), num_prompt_tokens=1, num_completion_tokens=tokens))
    assert estimate.expect(call("a")).num_completion_tokens == pytest.approx(50.0, rel=0.01)
