"""Logits to tokens.

Order of the filters as in transformers: temperature, top_k, top_p. Every request draws from a generator of its own,
one number a token, so a seed gives the same tokens whatever else is in the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from fastserve_ray.engines.protocol import SamplingParams


@dataclass(frozen=True, slots=True)
class Sampled:
    """One drawn token."""

    token_id: int


class Sampler:
    """How one completion draws its tokens.

    Args:
        index: which of a request's completions; each draws its own tokens from the request's seed.
    """

    def __init__(self, sampling: SamplingParams, index: int = 0) -> None:
        self.sampling = sampling
        self.generator = make_generator(sampling, index)


def make_sampler(sampling: SamplingParams, prompt_token_ids: Seq[int], *, vocab_size: int, index: int = 0) -> Sampler:
    """The sampler of the request's completion ``index``."""
    return Sampler(sampling, index)


_SEED_MASK = 2**64 - 1
"""torch takes 64-bit seeds; larger and negative ones are folded."""


def make_generator(sampling: SamplingParams, index: int = 0) -> torch.Generator | None:
    """The request's source of randomness; None when greedy."""
    if sampling.temperature == 0:
        return None
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed((sampling.seed + index) & _SEED_MASK)
    return generator


def sample(logits: torch.Tensor, samplers: Seq[Sampler]) -> list[Sampled | None]:
    """One token for each row of ``logits`` (N, vocabulary), in the order of ``samplers``.

    None where the logits are not finite, which is the model's failure and ends that request alone.
    """
    best_logits, best_ids = logits.max(dim=-1)
    tokens: list[int | None] = [
        token if math.isfinite(best) else None
        for token, best in zip(best_ids.tolist(), best_logits.tolist(), strict=True)
    ]
    for row, sampler in enumerate(samplers):
        if sampler.generator is not None and tokens[row] is not None:
            tokens[row] = draw(logits[row], sampler.sampling, sampler.generator)
    return [None if token is None else Sampled(token) for token in tokens]


def draw(logits: torch.Tensor, sampling: SamplingParams, generator: torch.Generator) -> int:
    """One token from ``logits`` (vocabulary,) by inversion of the cumulative distribution."""
    scores = logits.float().cpu()
    scores = (scores - scores.max()) / sampling.temperature
    ids: torch.Tensor | None = None
    if sampling.top_k is not None and sampling.top_k < scores.shape[0]:
        scores, ids = scores.topk(sampling.top_k)
    elif sampling.top_p < 1:
        scores, ids = scores.sort(descending=True, stable=True)
    probabilities = scores.double().softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    if sampling.top_p < 1:
        num_kept = max(1, int((cumulative - probabilities < sampling.top_p).sum()))
        cumulative = cumulative[:num_kept]
    threshold = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
    index = min(int(torch.searchsorted(cumulative, threshold, right=True)), cumulative.shape[0] - 1)
    return index if ids is None else int(ids[index])
