"""The distribution of what is drawn, and that filters cut where they should."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
from fastserve_ray.engines.torch.sampling import (
    NOT_FINITE,
    NOTHING_ALLOWED,
    Sampled,
    Sampler,
    draw,
    make_generator,
    sample,
)
from tests.engines.tiny import VOCAB_SIZE, build_engine, build_model, generate, greedy, random_prompts

NUM_DRAWS = 4000
LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0, float("-inf"), 0.5])


def draws(sampling: SamplingParams, logits: torch.Tensor = LOGITS) -> Counter[int]:
    generator = make_generator(sampling)
    assert generator is not None
    return Counter(draw(logits, sampling, generator) for _ in range(NUM_DRAWS))


def check(counts: Counter[int], probabilities: torch.Tensor) -> None:
    """Each frequency within five standard deviations."""
    for token, probability in enumerate(probabilities.tolist()):
        deviation = (probability * (1 - probability) / NUM_DRAWS) ** 0.5
        assert abs(counts[token] / NUM_DRAWS - probability) <= 5 * deviation


def test_draws_follow_the_softmax() -> None:
    check(draws(SamplingParams(seed=0)), LOGITS.softmax(-1))


def test_temperature() -> None:
    check(draws(SamplingParams(seed=0, temperature=0.5)), (LOGITS / 0.5).softmax(-1))
    check(draws(SamplingParams(seed=0, temperature=3.0)), (LOGITS / 3.0).softmax(-1))


def test_top_k_renormalizes() -> None:
    kept = torch.full_like(LOGITS, float("-inf"))
    kept[[1, 2]] = LOGITS[[1, 2]]
    check(draws(SamplingParams(seed=0, top_k=2)), kept.softmax(-1))


def test_top_p_keeps_the_smallest_set_with_the_mass() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert set(draws(SamplingParams(seed=0, top_p=0.5), logits)) == {0}
    assert set(draws(SamplingParams(seed=0, top_p=0.51), logits)) == {0, 1}
    check(draws(SamplingParams(seed=0, top_p=0.8), logits), torch.tensor([0.625, 0.375, 0.0, 0.0]))
    assert set(draws(SamplingParams(seed=0, top_p=1e-9), logits)) == {0}


def test_top_p_after_top_k() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert set(draws(SamplingParams(seed=0, top_k=2, top_p=0.57), logits)) == {0}  # 0.4 / 0.7 is 0.571


def test_tiny_temperature_is_greedy() -> None:
    assert set(draws(SamplingParams(seed=0, temperature=1e-30))) == {1}


def test_seeds() -> None:
    def sequence(seed: int | None) -> list[int]:
        sampling = SamplingParams(seed=seed)
        generator = make_generator(sampling)
        assert generator is not None
        return [draw(LOGITS, sampling, generator) for _ in range(30)]

    assert sequence(3) == sequence(3) != sequence(4)
    assert sequence(-1) == sequence(-1)
    assert sequence(2**70 + 5) == sequence(2**70 + 5)
    assert sequence(None) != sequence(None)
    assert make_generator(SamplingParams(temperature=0, seed=1)) is None


def test_min_p_is_relative_to_the_most_probable() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    check(draws(SamplingParams(seed=0, min_p=0.5), logits), torch.tensor([0.625, 0.375, 0.0, 0.0]))
    assert set(draws(SamplingParams(seed=0, min_p=1.0), logits)) == {0}
    assert set(draws(SamplingParams(seed=0, min_p=0.31, top_p=0.6), logits)) == {0, 1}
    assert set(draws(SamplingParams(seed=0, min_p=0.5, temperature=100.0), logits)) == {0, 1, 2, 3}


def sampler(prompt: tuple[int, ...] = (), vocab_size: int = 40, **sampling: Any) -> Sampler:
    sampling = {"temperature": 0, **sampling}
    return Sampler(SamplingParams(**sampling), prompt, vocab_size=vocab_size, eos_ids=(1, 2))


@pytest.mark.parametrize("seed", range(5))
def test_the_chain_is_that_of_transformers(seed: int) -> None:
    """The same support and the same probabilities as transformers' processors in transformers' order."""
    torch.manual_seed(seed)
    logits, prompt, generated = torch.randn(40) * 3, (3, 5, 5, 9), (5, 11)
    processors = LogitsProcessorList(
        [
            SequenceBiasLogitsProcessor([[[7], 2.5], [[9], -1.0]]),
            RepetitionPenaltyLogitsProcessor(1.3),
            MinNewTokensLengthLogitsProcessor(len(prompt), 4, [1, 2]),
            TemperatureLogitsWarper(0.7),
            TopKLogitsWarper(12),
            TopPLogitsWarper(0.9),
            MinPLogitsWarper(0.05),
        ]
    )
    ids = torch.tensor([prompt + generated])
    want = processors(ids, logits[None].clone())[0].softmax(-1)
    parameters: dict[str, Any] = {
        "temperature": 0.7,
        "top_k": 12,
        "top_p": 0.9,
        "min_p": 0.05,
        "seed": seed,
        "min_tokens": 4,
    }
    parameters |= {"repetition_penalty": 1.3, "logit_bias": ((7, 2.5), (9, -1.0))}
    ours = sampler(prompt, **parameters)
    for token in generated:
        ours._note(token)
    scores = ours._changed(logits)
    check(Counter(draw(scores, ours.sampling, ours.generator) for _ in range(NUM_DRAWS)), want)


def exact_frequencies(monkeypatch: pytest.MonkeyPatch, scores: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    """How often each token is drawn when the random numbers sweep 0 to 1 evenly: off by 1 / NUM_DRAWS at most."""
    sweep = iter((torch.arange(NUM_DRAWS, dtype=torch.float64) + 0.5) / NUM_DRAWS)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(sweep))
    counts = Counter(draw(scores, sampling, torch.Generator()) for _ in range(NUM_DRAWS))
    return torch.tensor([counts[token] / NUM_DRAWS for token in range(len(scores))])


@pytest.mark.parametrize("scale", [0.5, 3.0, 10.0])
@pytest.mark.parametrize(
    ("parameters", "processors"),
    [
        ({"temperature": 1.7}, [TemperatureLogitsWarper(1.7)]),
        ({"top_k": 7}, [TopKLogitsWarper(7)]),
        ({"top_k": 500}, [TopKLogitsWarper(500)]),
        ({"top_p": 0.3}, [TopPLogitsWarper(0.3)]),
        ({"top_p": 0.97}, [TopPLogitsWarper(0.97)]),
        ({"min_p": 0.2}, [MinPLogitsWarper(0.2)]),
        ({"top_p": 0.8, "min_p": 0.4}, [TopPLogitsWarper(0.8), MinPLogitsWarper(0.4)]),
        ({"top_k": 30, "min_p": 0.1}, [TopKLogitsWarper(30), MinPLogitsWarper(0.1)]),
        (
            {"temperature": 0.4, "top_k": 9, "top_p": 0.7},
            [TemperatureLogitsWarper(0.4), TopKLogitsWarper(9), TopPLogitsWarper(0.7)],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_each_filter_is_that_of_transformers(
    monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any], processors: list[Any], scale: float
) -> None:
    logits = torch.randn(200, generator=torch.Generator().manual_seed(0)) * scale
    want = LogitsProcessorList(processors)(torch.tensor([[0]]), logits[None].clone())[0].softmax(-1)
    found = exact_frequencies(monkeypatch, logits, SamplingParams(**parameters))
    assert float((found - want).abs().max()) <= 1.5 / NUM_DRAWS
    assert not found[want == 0].any()


@pytest.mark.parametrize("seed", range(3))
def test_penalties_are_those_of_the_definitions(seed: int) -> None:
    """OpenAI's, token by token: logit - count * frequency - (count > 0) * presence; transformers' for repetition."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, generator=generator) * 3
    prompt, *rest = torch.randint(40, (3, 12), generator=generator).tolist()
    generated = rest[0]
    ours = sampler(tuple(prompt), frequency_penalty=0.7, presence_penalty=-0.4)
    repetition = sampler(tuple(prompt), repetition_penalty=0.8)
    for token in generated:
        ours._note(token)
        repetition._note(token)
    want = [
        logit - 0.7 * generated.count(token) + 0.4 * (token in generated) for token, logit in enumerate(logits.tolist())
    ]
    assert ours._changed(logits).tolist() == pytest.approx(want, abs=1e-5)
    theirs = RepetitionPenaltyLogitsProcessor(0.8)(torch.tensor([prompt + generated]), logits[None].clone())[0]
    assert torch.allclose(repetition._changed(logits), theirs)


def test_logits_are_left_as_they_are() -> None:
    """A row belongs to several completions of one prompt, and logprobs are read from it afterwards."""
    logits = torch.randn(2, 40)
    before = logits.clone()
    row = sampler(logit_bias=((3, 5.0),), repetition_penalty=1.5, presence_penalty=1.0, min_tokens=3)
    sample(logits, [row, sampler(temperature=0.5, top_p=0.5, min_p=0.1)])
    assert torch.equal(logits, before)


def test_plain_rows_share_one_argmax(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a greedy row was sampled by itself")

    monkeypatch.setattr(Sampler, "sample", refuse)
    logits = torch.randn(5, 40)
    found = sample(logits, [sampler() for _ in range(5)])
    assert found == [Sampled(token) for token in logits.argmax(-1).tolist()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halved_precision(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 40).to(dtype)
    parameters: dict[str, Any] = {
        "logprobs": True,
        "top_logprobs": 1,
        "frequency_penalty": 0.1,
        "logit_bias": ((3, 0.1),),
    }
    for found, row in zip(sample(logits, [sampler(**parameters), sampler(**parameters)]), logits, strict=True):
        assert found is not None
        assert found.logprob is not None
        values = row.float().log_softmax(-1)
        assert found.logprob.logprob == pytest.approx(float(values[found.token_id]))
        assert found.logprob.top[0][1] == pytest.approx(float(values.max()))


def test_presence_and_frequency_count_the_completion_only() -> None:
    logits = torch.zeros(40)
    logits[[4, 6]] = torch.tensor([3.0, 2.0])
    frequent = sampler((4, 4), frequency_penalty=0.75)
    assert [found.token_id for found in map(frequent.sample, [logits] * 4) if found] == [4, 4, 6, 4]
    present = sampler((4, 4), presence_penalty=1.5)
    assert [found.token_id for found in map(present.sample, [logits] * 4) if found] == [4, 6, 4, 4]


def test_bias_bans_and_forces() -> None:
    logits = torch.randn(40)
    best = int(logits.argmax())
    banned = sampler(logit_bias=((best, -100.0),)).sample(logits)
    assert banned is not None
    assert banned.token_id == int(logits.topk(2).indices[1])
    forced = sampler(logit_bias=((17, 100.0),)).sample(logits)
    assert forced == Sampled(17)


def test_logprobs_are_the_models_own() -> None:
    logits = torch.randn(40)
    found = sampler(logprobs=True, top_logprobs=3, logit_bias=((17, 100.0),), temperature=0.3, seed=1).sample(logits)
    assert found is not None
    assert found.logprob is not None
    want = logits.log_softmax(-1)
    assert found.token_id == found.logprob.token_id == 17
    assert found.logprob.logprob == pytest.approx(float(want[17]))
    values, ids = want.topk(3)
    assert [token for token, _ in found.logprob.top] == ids.tolist()
    assert [value for _, value in found.logprob.top] == pytest.approx(values.tolist())


def test_a_row_without_numbers_fails_alone() -> None:
    logits = torch.randn(3, 40)
    logits[1, 3] = float("nan")
    rows = [sampler(), sampler(), sampler(frequency_penalty=1.0)]
    first, bad, last = sample(logits, rows)
    assert (first, last) == (Sampled(int(logits[0].argmax())), Sampled(int(logits[2].argmax())))
    assert bad is None
    assert rows[1].error == NOT_FINITE


def test_nothing_left_to_draw_is_told() -> None:
    everything = sampler(vocab_size=3, min_tokens=1, logit_bias=((0, float("-inf")),))
    assert everything.sample(torch.zeros(3)) is None
    assert everything.error == NOTHING_ALLOWED


PLAIN = SamplingParams(max_tokens=12, temperature=0)
MANY = [
    PLAIN,
    SamplingParams(max_tokens=12, seed=4, temperature=0.9, top_p=0.9, frequency_penalty=0.5),
    SamplingParams(max_tokens=12, seed=4, min_p=0.1, repetition_penalty=1.2),
    SamplingParams(max_tokens=12, temperature=0, logprobs=True, top_logprobs=2, presence_penalty=1.0),
    SamplingParams(max_tokens=12, seed=4, logit_bias=((7, 3.0),), n=2, min_tokens=6),
]


def test_alone_and_in_company() -> None:
    model, prompts = build_model(initializer_range=0.1), random_prompts(len(MANY))
    engine = build_engine(model)
    requests = [GenerateRequest(str(at), prompts[at], sampling) for at, sampling in enumerate(MANY)]
    together = [(found.request_id, found.index, found.token_ids) for found in generate_all(engine, requests)]
    alone = [
        (found.request_id, found.index, found.token_ids)
        for request in requests
        for found in generate_all(engine, [request])
    ]
    assert together == alone


def test_logprobs_of_a_completion_are_those_of_the_model() -> None:
    model, prompt = build_model(), random_prompts(1)[0]
    want = generate(model, prompt, 8)
    ids = torch.tensor([prompt + want])
    with torch.inference_mode():
        expected = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    (found,) = generate_all(build_engine(model), [greedy("a", prompt, 8, logprobs=True, top_logprobs=1)])
    assert found.token_ids == want
    assert [step.token_id for step in found.logprobs] == list(want)
    at = torch.arange(8)
    assert [step.logprob for step in found.logprobs] == pytest.approx(expected[at, list(want)].tolist(), abs=1e-4)
    assert [step.top for step in found.logprobs] == [((step.token_id, step.logprob),) for step in found.logprobs]


def test_logprobs_of_drawn_tokens_are_those_before_temperature_and_filters() -> None:
    model, prompt = build_model(initializer_range=0.1), random_prompts(1)[0]
    engine = build_engine(build_model(initializer_range=0.1), max_num_batched_tokens=16)
    sampling = SamplingParams(
        max_tokens=8, seed=3, temperature=2.5, top_k=50, repetition_penalty=1.4, logprobs=True, top_logprobs=20
    )
    (found,) = generate_all(engine, [GenerateRequest("a", prompt, sampling)])
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + found.token_ids])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)
    for step, token, row in zip(found.logprobs, found.token_ids, expected, strict=True):
        assert step.token_id == token
        assert step.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert [value for _, value in step.top] == pytest.approx(row.topk(20).values.tolist(), abs=1e-4)
    assert any(step.token_id != step.top[0][0] for step in found.logprobs), "all were greedy: the test shows nothing"


@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_top_p_of_a_large_vocabulary(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    """Flat, so that more tokens than are looked at first have the mass, and peaked."""
    monkeypatch.setattr("fastserve_ray.engines.torch.sampling._NUM_LIKELY", 20)
    logits = torch.randn(200, generator=torch.Generator().manual_seed(0)) * scale
    want = TopPLogitsWarper(0.7)(torch.tensor([[0]]), logits[None].clone())[0].softmax(-1)
    found = exact_frequencies(monkeypatch, logits, SamplingParams(top_p=0.7))
    assert int((want > 0).sum()) > 20 if scale < 1 else int((want > 0).sum()) < 20
    assert float((found - want).abs().max()) <= 1.5 / NUM_DRAWS


def test_completions_meet_no_neighbouring_seed() -> None:
    seeds = [
        generator.initial_seed()
        for seed in range(8)
        for index in range(8)
        if (generator := make_generator(SamplingParams(seed=seed), index)) is not None
    ]
    assert len(set(seeds)) == 64


def test_end_tokens_beyond_the_logits() -> None:
    """Some checkpoints name an end token that their embedding lacks."""
    found = Sampler(SamplingParams(temperature=0, min_tokens=1), (), vocab_size=5, eos_ids=(2, 9)).sample(
        torch.tensor([0.0, 1.0, 5.0, 0.5, 0.0])
    )
    assert found == Sampled(1)


def test_bias_through_the_engine() -> None:
    model, prompt = build_model(initializer_range=0.1), random_prompts(1)[0]
    want = generate(model, prompt, 8)
    engine = build_engine(model)
    (forced,) = generate_all(engine, [greedy("a", prompt, 8, logit_bias=((17, 100.0),))])
    assert forced.token_ids == (17,) * 8
    banned = tuple((token, -100.0) for token in sorted(set(want)))
    (without,) = generate_all(engine, [greedy("a", prompt, 8, logit_bias=banned)])
    assert not set(without.token_ids) & set(want)


def test_seeds_through_the_engine() -> None:
    engine, prompt = build_engine(build_model(initializer_range=0.1)), random_prompts(1)[0]

    def tokens(seed: int | None, **others: Any) -> list[tuple[int, ...]]:
        sampling = SamplingParams(max_tokens=10, seed=seed, **others)
        return [found.token_ids for found in generate_all(engine, [GenerateRequest("a", prompt, sampling)])]

    several = tokens(5, n=3)
    assert several == tokens(5, n=3)
    assert several[:1] == tokens(5)
    assert len(set(several)) == 3
    assert tokens(5) != tokens(1000)
    assert tokens(None) != tokens(None)


def test_min_tokens_hold_back_ends_and_stops() -> None:
    model = build_model()
    prompt = random_prompts(1)[0]
    want = generate(model, prompt)
    model.generation_config.eos_token_id = want[3]
    engine = build_engine(model)
    (early,) = generate_all(engine, [greedy("a", prompt, 20)])
    assert early.num_completion_tokens <= 4
    (late,) = generate_all(engine, [greedy("a", prompt, 20, min_tokens=9)])
    assert late.num_completion_tokens > 9 or late.finish_reason == "length"
    assert want[3] not in late.token_ids[:9]
    (whole,) = generate_all(engine, [greedy("a", prompt, 20, ignore_eos=True)])
    stop = next(char for char in whole.text if char.isascii())
    (stopped,) = generate_all(engine, [greedy("a", prompt, 20, ignore_eos=True, stop=(stop,))])
    (held,) = generate_all(engine, [greedy("a", prompt, 20, ignore_eos=True, stop=(stop,), min_tokens=15)])
    assert stopped.num_completion_tokens < 15 <= held.num_completion_tokens


def test_seeds_of_several_completions_differ() -> None:
    assert VOCAB_SIZE > 40
    base = SamplingParams(seed=9)
    first, second = make_generator(base, 0), make_generator(base, 1)
    plain = make_generator(dataclasses.replace(base))
    assert first is not None
    assert second is not None
    assert plain is not None
    assert first.initial_seed() == plain.initial_seed() != second.initial_seed()
