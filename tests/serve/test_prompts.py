"""From calls to the engine's requests."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.serve.calls import GenerateCall
from fastserve_ray.serve.failures import Failure, RequestFailed
from fastserve_ray.serve.prompts import SHORT_CHARACTERS, build_requests, is_short
from tests.engines.tiny import build_tokenizer

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' and not loop.first %}{{ raise_exception('system comes first') }}{% endif %}"
    "<s>{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def tokenizer(template: str | None = None) -> Any:
    import copy

    made = copy.deepcopy(build_tokenizer())
    made.chat_template = template
    return made


def refused(call: GenerateCall, template: str | None = None, max_model_len: int = 128) -> Failure:
    with pytest.raises(RequestFailed) as caught:
        build_requests(call, tokenizer(template), max_model_len)
    return caught.value.failure


def test_one_request_for_each_prompt_with_what_the_call_says() -> None:
    sampling = SamplingParams(seed=9, n=2)
    call = GenerateCall(
        "id",
        prompts=("the cat", (5, 6, 7)),
        max_tokens=4,
        sampling=sampling,
        priority=3,
        share_key="ann",
        share_weight=2.0,
    )
    first, second = build_requests(call, tokenizer(), 128)
    assert list(first.prompt_token_ids) == tokenizer()("the cat")["input_ids"]
    assert second.prompt_token_ids == (5, 6, 7)
    assert first.request_id != second.request_id
    assert (first.sampling.seed, first.sampling.n, first.sampling.max_tokens) == (9, 2, 4)
    assert (first.priority, first.share_key, first.share_weight) == (3, "ann", 2.0)


def test_no_limit_means_the_rest_of_the_context() -> None:
    call = GenerateCall("id", prompts=((5, 6, 7),))
    assert build_requests(call, tokenizer(), 128)[0].sampling.max_tokens == 125


@pytest.mark.parametrize(("length", "max_tokens", "fits"), [(100, 28, True), (100, 29, False), (128, None, False)])
def test_the_context_is_kept(length: int, max_tokens: int | None, fits: bool) -> None:
    call = GenerateCall("id", prompts=((5,) * length,), max_tokens=max_tokens)
    if fits:
        build_requests(call, tokenizer(), 128)
    else:
        failure = refused(call)
        assert (failure.status, failure.code, failure.param) == (400, "context_length_exceeded", "prompt")
        assert "128" in failure.message


def test_only_what_is_tokenized_takes_time() -> None:
    half = "x" * (SHORT_CHARACTERS // 2)
    assert is_short(GenerateCall("r", prompts=(half, tuple(range(100_000)), half)))
    assert not is_short(GenerateCall("r", prompts=(half, half, "x")))
    assert not is_short(GenerateCall("r", messages=({"role": "user", "content": "x"},)))


def test_an_empty_prompt_is_refused() -> None:
    assert refused(GenerateCall("id", prompts=("",))).param == "prompt"


def test_messages_go_through_the_models_own_template() -> None:
    made = tokenizer(TEMPLATE)
    messages = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat"})
    ids = build_requests(GenerateCall("id", messages=messages), made, 128)[0].prompt_token_ids
    assert made.decode(ids) == "<s>system: be brief\n<s>user: the cat\nassistant:"
    assert ids.count(made.bos_token_id) == 2


def test_without_a_template_the_other_endpoint_is_named() -> None:
    failure = refused(GenerateCall("id", messages=({"role": "user", "content": "x"},)))
    assert (failure.status, failure.code) == (400, "no_chat_template")
    assert "/v1/completions" in failure.message


def test_what_the_template_refuses_is_a_400_with_its_words() -> None:
    messages = ({"role": "user", "content": "x"}, {"role": "system", "content": "y"})
    failure = refused(GenerateCall("id", messages=messages), TEMPLATE)
    assert (failure.status, failure.param) == (400, "messages")
    assert "system comes first" in failure.message
