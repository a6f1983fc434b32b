"""The generate engine: requests join, leave and end, and nothing is ever over a budget."""

from __future__ import annotations

import random

import pytest
import torch

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.protocol import EngineStats, FinishReason, GenerateRequest, SamplingParams
from fastserve_ray.errors import EngineError
from tests.engines.tiny import VOCAB_SIZE, build_engine, build_model, build_tokenizer, generate, greedy, random_prompts

MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS, KV_CACHE_TOKENS = 4, 24, 192


class Spy:
    """Sees the chunks of every step on their way to the runner."""

    def __init__(self, engine: object) -> None:
        self.num_tokens = 0
        self.num_seqs = 0
        runner = engine._runner  # type: ignore[attr-defined]
        run = runner.run

        def spying(chunks: list[object]) -> object:
            self.num_tokens = sum(chunk.num_tokens for chunk in chunks)  # type: ignore[attr-defined]
            self.num_seqs = len(chunks)
            return run(chunks)

        runner.run = spying


@pytest.mark.parametrize("seed", range(3))
def test_random_drive(seed: int) -> None:
    """Requests arrive, are cancelled and end in any order: budgets hold in every step, tokens are those of generate,
    and all space comes back."""
    draw = random.Random(seed)
    model = build_model("qwen2")
    prompts = random_prompts(40, seed=seed, longest=60)
    lengths = [draw.randint(1, 30) for _ in prompts]
    expected = [generate(model, prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
    engine = build_engine(
        model,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        kv_cache_tokens=KV_CACHE_TOKENS,
    )
    spy = Spy(engine)
    tokens: dict[str, list[int]] = {}
    ended: dict[str, FinishReason] = {}
    cancelled: set[str] = set()
    coming = list(range(len(prompts)))
    while coming or engine.has_work():
        for _ in range(min(len(coming), draw.choice([0, 0, 1, 3]))):
            at = coming.pop(0)
            engine.add_request(greedy(at, prompts[at], lengths[at]))
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


def check_budgets(stats: EngineStats, spy: Spy) -> None:
    assert spy.num_tokens <= MAX_NUM_BATCHED_TOKENS
    assert spy.num_seqs <= MAX_NUM_SEQS
    assert stats.num_running <= MAX_NUM_SEQS
    assert 0 <= stats.kv_tokens_used <= stats.kv_tokens_total <= KV_CACHE_TOKENS
    assert (stats.kv_tokens_used == 0) == (stats.num_running == 0)


def test_ten_times_the_cache_is_served_in_order() -> None:
    engine = build_engine(max_num_seqs=4, kv_cache_tokens=128)
    requests = [greedy(at, prompt, 60) for at, prompt in enumerate(random_prompts(20, longest=60))]
    assert sum(len(request.prompt_token_ids) + 60 for request in requests) > 10 * 128
    assert all(completion.finish_reason in {"length", "stop"} for completion in generate_all(engine, requests))


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
