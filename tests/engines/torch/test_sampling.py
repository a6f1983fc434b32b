"""The distribution of what is drawn, and that filters cut where they should."""

from __future__ import annotations

from collections import Counter

import torch

from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.engines.torch.sampling import draw, make_generator

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
