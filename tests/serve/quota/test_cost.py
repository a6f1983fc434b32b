from __future__ import annotations

from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.serve.calls import Classified, ClassifyCall, DetokenizeCall, Frame, GenerateCall
from fastserve_ray.serve.quota.cost import estimate, used


def test_prompts_and_all_completions_count() -> None:
    call = GenerateCall("r", ("a" * 9, (1, 2)), max_tokens=10, sampling=SamplingParams(n=3))
    assert estimate(call) == 3 + 2 + 2 * 3 * 10


def test_conversations_count_their_texts() -> None:
    parts = [{"type": "text", "text": "abcd"}, {"type": "text", "text": "abcde"}]
    messages = ({"role": "user", "content": "a" * 8}, {"role": "user", "content": parts}, {"role": "assistant"})
    assert estimate(GenerateCall("r", messages=messages)) == 2 + 1 + 2


def test_other_calls() -> None:
    assert estimate(ClassifyCall(("abcd", "abcdefgh"))) == 3
    assert estimate(DetokenizeCall((1, 2))) == 0


def test_what_was_used() -> None:
    assert used(Frame((), 7, 5)) == (7, 5)
    assert used(Classified((), 7, ())) == (7, 0)
    assert used(None) == (0, 0)
