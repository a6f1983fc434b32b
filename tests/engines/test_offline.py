from __future__ import annotations

import pytest

from fastserve_ray.engines.offline import complete_texts, generate_all
from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.errors import EngineError
from tests.engines.tiny import build_engine, build_tokenizer, greedy


def test_completions_come_in_the_order_of_the_requests() -> None:
    requests = [greedy(name, (at + 5,), at + 1, ignore_eos=True) for at, name in enumerate("cab")]
    completions = generate_all(build_engine(), requests)
    assert [completion.request_id for completion in completions] == ["c", "a", "b"]
    assert [completion.num_completion_tokens for completion in completions] == [1, 2, 3]
    assert all(len(completion.token_ids) == completion.num_completion_tokens for completion in completions)
    assert generate_all(build_engine(), []) == []


def test_a_refused_request_leaves_nothing_behind() -> None:
    engine = build_engine()
    with pytest.raises(EngineError, match="id is in the engine"):
        generate_all(engine, [greedy("a", (5,)), greedy("a", (6,))])
    assert not engine.has_work()


def test_texts_are_tokenized_and_completed() -> None:
    engine, texts = build_engine(), ["the cat", "東京"]
    found = complete_texts(engine, texts, SamplingParams(max_tokens=6, temperature=0))
    prompts = [tuple(build_tokenizer()(text).input_ids) for text in texts]
    wanted = generate_all(engine, [greedy(at, prompt, 6) for at, prompt in enumerate(prompts)])
    assert [completion.text for completion in found] == [completion.text for completion in wanted]
