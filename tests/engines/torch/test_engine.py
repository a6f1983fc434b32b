"""The generate engine: requests join, leave and end, and nothing is ever over a budget."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.protocol import EngineStats, FinishReason, GenerateRequest, SamplingParams
from fastserve_ray.errors import EngineError, EngineFullError
from tests.engines.tiny import VOCAB_SIZE, build_engine, build_model, build_tokenizer, generate, greedy, random_prompts

if TYPE_CHECKING:
    from fastserve_ray.engines.torch.scheduler import StepPlan

SPECS: list[dict[str, Any]] = [
    {"family": "qwen2", "kv_host_tokens": 0, "prefix_caching": False},
    {"family": "gpt2", "kv_host_tokens": 0, "prefix_caching": True},
    {"family": "llama", "kv_host_tokens": 256, "prefix_caching": False},
    {"family": "mistral", "kv_host_tokens": 128, "prefix_caching": True},
]
MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS, KV_CACHE_TOKENS = 4, 24, 192


class Spy:
    """Sees the chunks of every step on their way to the runner."""

    def __init__(self, engine: object) -> None:
        self.num_tokens = 0
        self.num_seqs = 0
        runner = engine._runner  # type: ignore[attr-defined]
        run = runner.run

        def spying(plan: StepPlan) -> object:
            self.num_tokens = sum(chunk.num_tokens for chunk in plan.chunks)
            self.num_seqs = len(plan.chunks)
            return run(plan)

        runner.run = spying


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_random_drive(seed: int, spec: dict[str, Any]) -> None:
    """Requests arrive, are cancelled and end in any order, with any priority, many with the same beginning.

    Budgets hold in every step, tokens are those of generate whatever was preempted, swapped, dropped or shared, and
    all space comes back.
    """
    draw = random.Random(seed)
    model = build_model(spec["family"])
    beginning = random_prompts(1, seed=9, longest=1)[0] * 33
    prompts = [beginning[: draw.choice([0, 20, 33])] + rest for rest in random_prompts(40, seed=seed, longest=50)]
    lengths = [draw.randint(1, 30) for _ in prompts]
    expected = [generate(model, prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
    engine = build_engine(
        model,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        kv_cache_tokens=KV_CACHE_TOKENS,
        kv_host_tokens=spec["kv_host_tokens"],
        prefix_caching=spec["prefix_caching"],
    )
    spy = Spy(engine)
    tokens: dict[str, list[int]] = {}
    ended: dict[str, FinishReason] = {}
    cancelled: set[str] = set()
    coming = list(range(len(prompts)))
    while coming or engine.has_work():
        for _ in range(min(len(coming), draw.choice([0, 0, 1, 3]))):
            at = coming.pop(0)
            request = greedy(at, prompts[at], lengths[at])
            engine.add_request(dataclasses.replace(request, priority=draw.randint(0, 9)))
            tokens[str(at)] = []
        if draw.random() < 0.1 and tokens:
            request_id = draw.choice(sorted(tokens))
            engine.cancel(request_id)
            if request_id not in ended:
                cancelled.add(request_id)
        for delta in engine.step():
            assert delta.request_id not in cancelled | ended.keys()
            tokens[delta.request_id] += delta.token_ids
            if delta.finish_reason is not None:
                ended[delta.request_id] = delta.finish_reason
        check_budgets(engine.stats(), spy)
    assert engine.stats().kv_tokens_used == 0
    assert ended.keys() | cancelled == tokens.keys()
    assert len(cancelled) >= 1
    for at, want in enumerate(expected):
        got = tuple(tokens[str(at)])
        assert got == (want[: len(got)] if str(at) in cancelled else want)
    stats = engine.stats()
    assert stats.num_preemptions > 3
    assert (stats.num_swapped_blocks > 3) == (spec["kv_host_tokens"] > 0)
    assert (stats.prefix_hit_tokens > 50) == spec["prefix_caching"]


def check_budgets(stats: EngineStats, spy: Spy) -> None:
    assert spy.num_tokens <= MAX_NUM_BATCHED_TOKENS
    assert spy.num_seqs <= MAX_NUM_SEQS
    assert 0 <= stats.kv_tokens_used <= stats.kv_tokens_total <= KV_CACHE_TOKENS
    assert (stats.kv_tokens_used == 0) == (stats.num_running == stats.num_swapped)


def test_ten_times_the_cache_is_served_in_order() -> None:
    engine = build_engine(max_num_seqs=4, kv_cache_tokens=128)
    requests = [greedy(at, prompt, 60) for at, prompt in enumerate(random_prompts(20, longest=60))]
    assert sum(len(request.prompt_token_ids) + 60 for request in requests) > 10 * 128
    assert all(completion.finish_reason in {"length", "stop"} for completion in generate_all(engine, requests))


def test_more_than_may_wait_are_refused_and_none_is_lost() -> None:
    engine = build_engine(max_num_waiting=3)
    for name in "abc":
        engine.add_request(greedy(name, (5, 6)))
    with pytest.raises(EngineFullError, match="waiting") as caught:
        engine.add_request(greedy("d", (5, 6)))
    assert caught.value.key == "serve.engine.max_num_waiting"
    engine.step()
    engine.add_request(greedy("d", (5, 6)))
    ended = set()
    while engine.has_work():
        ended |= {delta.request_id for delta in engine.step() if delta.finish_reason}
    assert ended == set("abcd")


def test_several_completions_of_one_prompt() -> None:
    model, prompt = build_model(initializer_range=0.1), random_prompts(1, longest=40)[0] * 2
    engine = build_engine(model, prefix_caching=False)
    several = [
        GenerateRequest("three", prompt, SamplingParams(max_tokens=12, n=3, seed=5)),
        GenerateRequest("one", prompt[:7], SamplingParams(max_tokens=12, seed=5)),
    ]
    completions = generate_all(engine, several)
    assert [(completion.request_id, completion.index) for completion in completions] == [
        ("three", 0), ("three", 1), ("three", 2), ("one", 0)
    ]  # fmt: skip
    assert engine.stats().prompt_tokens == len(prompt) + 7  # each prompt was read once
    assert len({completion.token_ids for completion in completions}) == 4
    (alone,) = generate_all(engine, [GenerateRequest("alone", prompt, SamplingParams(max_tokens=12, seed=5))])
    assert alone.token_ids == completions[0].token_ids
    assert engine.stats().kv_tokens_used == 0


def test_cancelling_ends_all_completions_of_a_request() -> None:
    engine = build_engine()
    engine.add_request(GenerateRequest("a", (5, 6, 7), SamplingParams(max_tokens=12, n=3, seed=5)))
    assert [delta.index for delta in engine.step()] == [0, 1, 2]
    engine.step()
    engine.cancel("a")
    assert not engine.has_work()
    assert engine.stats().kv_tokens_used == 0


def test_cancel_frees_in_the_same_step() -> None:
    engine = build_engine()
    engine.add_request(greedy("a", (5, 6, 7)))
    engine.step()
    assert engine.stats().kv_tokens_used > 0
    engine.cancel("a")
    assert engine.stats().kv_tokens_used == 0
    assert not engine.has_work()
    engine.cancel("a")
    engine.add_request(greedy("a", (5, 6, 7)))
    assert engine.step()


def test_finish_frees_in_the_same_step() -> None:
    engine = build_engine()
    engine.add_request(greedy("a", (5, 6, 7), 1))
    (delta,) = engine.step()
    assert delta.finish_reason == "length"
    assert engine.stats().kv_tokens_used == 0
    assert engine.stats().num_generated_tokens == 1


@pytest.mark.parametrize("eos", ["int", "list", "config"])
def test_eos_stops(eos: str) -> None:
    model = build_model()
    prompt = random_prompts(1)[0]
    want = generate(model, prompt)
    end = want[5]
    cut = want[: want.index(end) + 1]
    model.generation_config.eos_token_id = {"int": end, "list": [1, end], "config": None}[eos]
    if eos == "config":
        model.config.eos_token_id = end
    engine = build_engine(model)
    stopped, ignoring = generate_all(engine, [greedy("a", prompt), greedy("b", prompt, ignore_eos=True)])
    assert (stopped.token_ids, stopped.finish_reason) == (cut, "stop")
    assert (ignoring.token_ids, ignoring.finish_reason) == (want, "length")


def test_stop_string_across_tokens() -> None:
    engine = build_engine()
    prompt = random_prompts(1)[0]
    (whole,) = generate_all(engine, [greedy("a", prompt, 40)])
    stop = whole.text[10:14]
    cut = whole.text.index(stop)
    (stopped,) = generate_all(engine, [greedy("b", prompt, 40, stop=("never there", stop))])
    assert stopped.text == whole.text[:cut]
    assert stopped.finish_reason == "stop"
    assert stopped.num_completion_tokens < 40
    assert stopped.token_ids == whole.token_ids[: stopped.num_completion_tokens]


def test_text_equals_decoding_at_once() -> None:
    """Even for a random model, whose bytes are hardly ever characters."""
    engine, tokenizer = build_engine(), build_tokenizer()
    texts = ["the cat", "grüße aus köln", "東京", "🙂", "a b", "the dog"]
    prompts = [tuple(tokenizer(text).input_ids) for text in texts]
    completions = generate_all(engine, [greedy(at, prompt, 80) for at, prompt in enumerate(prompts)])
    for text, prompt, completion in zip(texts, prompts, completions, strict=True):
        assert text + completion.text == tokenizer.decode([*prompt, *completion.token_ids], skip_special_tokens=True)


def test_completion_is_cut_to_the_models_length() -> None:
    engine = build_engine(max_model_len=32)
    (completion,) = generate_all(engine, [greedy("a", tuple(range(3, 33)), 100, ignore_eos=True)])
    assert (completion.num_prompt_tokens, completion.num_completion_tokens) == (30, 2)
    assert completion.finish_reason == "length"


def sampled(request_id: str, prompt: tuple[int, ...], seed: int | None) -> GenerateRequest:
    return GenerateRequest(request_id, prompt, SamplingParams(max_tokens=12, temperature=0.8, top_p=0.9, seed=seed))


def test_a_seed_gives_the_same_tokens_whatever_the_batch() -> None:
    model, prompts = build_model(initializer_range=0.1), random_prompts(6)
    engine = build_engine(model)
    (alone,) = generate_all(engine, [sampled("alone", prompts[0], 7)])
    others = [sampled(str(at), prompt, at) for at, prompt in enumerate(prompts)]
    *_, together = generate_all(engine, [*others, sampled("together", prompts[0], 7)])
    (other_seed,) = generate_all(engine, [sampled("other", prompts[0], 8)])
    assert alone.token_ids == together.token_ids
    assert alone.token_ids != other_seed.token_ids


def test_no_seed_draws_anew() -> None:
    engine = build_engine(build_model(initializer_range=0.02))
    first, second = generate_all(engine, [sampled("a", (5, 6), None), sampled("b", (5, 6), None)])
    assert first.token_ids != second.token_ids


def test_a_request_with_nan_fails_alone() -> None:
    model = build_model(tie_word_embeddings=False)
    want = generate(model, (3, 4, 5))
    poison = 300
    with torch.no_grad():
        model.model.embed_tokens.weight[poison] = float("nan")
    assert poison not in want
    engine = build_engine(model)
    bad, good = generate_all(engine, [greedy("bad", (3, poison, 4)), greedy("good", (3, 4, 5))])
    assert bad.finish_reason == "error"
    assert "not finite" in (bad.error or "")
    assert good.token_ids == want
    assert engine.stats().kv_tokens_used == 0


@pytest.mark.parametrize(
    ("request_", "key"),
    [
        (greedy("a", ()), "prompt"),
        (greedy("a", (1,) * 128), "prompt"),
        (greedy("a", (3, VOCAB_SIZE)), "prompt"),
        (greedy("a", (-1,)), "prompt"),
        (greedy("taken", (3,)), "request_id"),
        (greedy("a", (3,), 0), "max_tokens"),
        (GenerateRequest("a", (3,), SamplingParams(temperature=-0.1)), "temperature"),
        (GenerateRequest("a", (3,), SamplingParams(temperature=float("nan"))), "temperature"),
        (GenerateRequest("a", (3,), SamplingParams(top_p=0.0)), "top_p"),
        (GenerateRequest("a", (3,), SamplingParams(top_k=0)), "top_k"),
    ],
)
def test_bad_requests_are_refused(request_: GenerateRequest, key: str) -> None:
    engine = build_engine()
    engine.add_request(greedy("taken", (3,)))
    with pytest.raises(EngineError) as caught:
        engine.add_request(request_)
    assert caught.value.key == key
    assert engine.stats().num_waiting == 1


def test_a_cache_too_small_for_one_request_is_refused() -> None:
    with pytest.raises(EngineError, match="cannot hold one request") as caught:
        build_engine(kv_cache_tokens=64)
    assert caught.value.key == "serve.engine.kv_cache_tokens"
    assert build_engine(kv_cache_tokens=64, max_model_len=64).stats().kv_tokens_total == 64
