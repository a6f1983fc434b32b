"""Logits to tokens.

What changes logits and what filters them comes in the order of transformers' logits processors; `SamplingParams` lists
it. Every completion draws from a generator of its own, one number a token, so a seed gives the same tokens whatever
else is in the batch. Rows that are greedy and ask for nothing else share one argmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fastserve_ray.engines.protocol import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Sequence as Seq

    from fastserve_ray.engines.protocol import SamplingParams
    from fastserve_ray.engines.torch.constrained import Matcher

_NUM_LIKELY = 1024
"""How many of the most probable tokens top_p looks at first; sorting a whole vocabulary takes twenty times longer."""
_SEED_STRIDE = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: seeds of a request's completions are far apart, so that they meet nobody's own seeds."""
_SEED_MASK = 2**64 - 1
"""torch takes 64-bit seeds; larger and negative ones are folded."""
NOT_FINITE = "the model's logits are not finite (NaN or infinite)"
NOTHING_ALLOWED = "no token is allowed: logit_bias, min_tokens and the constraint leave none"


@dataclass(frozen=True, slots=True)
class Sampled:
    """One drawn token."""

    token_id: int
    logprob: TokenLogprob | None = None
    """When the request asks for it."""


class Sampler:
    """How one completion draws its tokens, and what it must remember for that.

    Args:
        prompt_token_ids: count for ``repetition_penalty``.
        vocab_size: width of the logits.
        eos_ids: tokens held back by ``min_tokens``.
        matcher: of the constraint, at the beginning of the completion.
        index: which of a request's completions; each draws its own tokens from the request's seed.
    """

    def __init__(
        self,
        sampling: SamplingParams,
        prompt_token_ids: Seq[int],
        *,
        vocab_size: int,
        eos_ids: Collection[int] = (),
        matcher: Matcher | None = None,
        index: int = 0,
    ) -> None:
        self.sampling = sampling
        self.generator = make_generator(sampling, index)
        self.matcher = matcher
        self.error: str | None = None
        """Why it could draw no token."""
        self._num_drawn = 0
        self._eos_ids = torch.tensor(sorted(token for token in eos_ids if token < vocab_size), dtype=torch.int64)
        self._bias_ids = torch.tensor([token for token, _ in sampling.logit_bias], dtype=torch.int64)
        self._bias = torch.tensor([bias for _, bias in sampling.logit_bias])
        self._counts: torch.Tensor | None = None
        """(vocabulary,) how often the completion has each token."""
        self._seen: torch.Tensor | None = None
        """(vocabulary,) bool: whether prompt or completion has it."""
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._counts = torch.zeros(vocab_size)
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool)
            self._seen[list(prompt_token_ids)] = True

    @property
    def is_plain(self) -> bool:
        """Whether the most probable token is all that it wants."""
        return self.generator is None and not self.sampling.changes_logits and not self.sampling.logprobs

    def sample(self, logits: torch.Tensor) -> Sampled | None:
        """Draw from ``logits`` (vocabulary,) on the CPU; None, and ``error`` is set, when there is nothing to draw."""
        if not math.isfinite(float(logits.max())):
            self.error = NOT_FINITE
            return None
        scores = self._changed(logits) if self.sampling.changes_logits else logits
        # a matcher that has given up allows the end-of-sequence token, which would pass for a whole completion
        self.error = self.matcher.error if self.matcher is not None else None
        if self.error is None and scores.max() == float("-inf"):
            self.error = NOTHING_ALLOWED
        if self.error is not None:
            return None
        token = int(scores.argmax()) if self.generator is None else draw(scores, self.sampling, self.generator)
        self._note(token)
        return Sampled(token, self._logprob(logits, token) if self.sampling.logprobs else None)

    def _changed(self, logits: torch.Tensor) -> torch.Tensor:
        """The scores that the filters see, (vocabulary,) float32."""
        sampling, scores = self.sampling, logits.float().clone()
        if len(self._bias_ids):
            scores.index_add_(0, self._bias_ids, self._bias)
        if self._seen is not None:
            penalty = sampling.repetition_penalty
            penalized = torch.where(scores < 0, scores * penalty, scores / penalty)
            scores = torch.where(self._seen, penalized, scores)
        if self._counts is not None:
            scores -= sampling.frequency_penalty * self._counts + sampling.presence_penalty * (self._counts > 0)
        if self.matcher is not None:
            scores.masked_fill_(~self.matcher.allowed(), float("-inf"))
        if self._num_drawn < sampling.min_tokens:
            held = scores.index_fill(0, self._eos_ids, float("-inf"))
            # a grammar may be at its end before min_tokens
            scores = held if self.matcher is None or held.max() > float("-inf") else scores
        return scores

    def _note(self, token: int) -> None:
        self._num_drawn += 1
        if self._counts is not None:
            self._counts[token] += 1
        if self._seen is not None:
            self._seen[token] = True
        if self.matcher is not None:
            self.matcher.push(token)

    def _logprob(self, logits: torch.Tensor, token: int) -> TokenLogprob:
        logprobs = logits.float().log_softmax(dim=-1)
        top: tuple[tuple[int, float], ...] = ()
        if self.sampling.top_logprobs:
            values, ids = logprobs.topk(min(self.sampling.top_logprobs, len(logprobs)))
            top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return TokenLogprob(token, float(logprobs[token]), top)


def make_generator(sampling: SamplingParams, index: int = 0) -> torch.Generator | None:
    """The completion's source of randomness; None when greedy."""
    if sampling.temperature == 0:
        return None
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed((sampling.seed + index * _SEED_STRIDE) & _SEED_MASK)
    return generator


def sample(logits: torch.Tensor, samplers: Seq[Sampler]) -> list[Sampled | None]:
    """One token for each row of ``logits`` (N, vocabulary), in the order of ``samplers``.

    None where there is nothing to draw, with the reason in the sampler's ``error``; that request fails alone.
    """
    best_logits, best_ids = logits.max(dim=-1)
    tokens: list[Sampled | None] = []
    rows = logits if all(sampler.is_plain for sampler in samplers) else logits.cpu()
    for row, (sampler, token, best) in enumerate(zip(samplers, best_ids.tolist(), best_logits.tolist(), strict=True)):
        if not sampler.is_plain:
            tokens.append(sampler.sample(rows[row]))
        elif math.isfinite(best):
            tokens.append(Sampled(token))
        else:
            sampler.error = NOT_FINITE
            tokens.append(None)
    return tokens


def draw(logits: torch.Tensor, sampling: SamplingParams, generator: torch.Generator) -> int:
    """One token from ``logits`` (vocabulary,) by inversion of the cumulative distribution."""
    scores = logits.float().cpu()
    scores = (scores - scores.max()) / sampling.temperature
    ids: torch.Tensor | None = None
    if sampling.top_k is not None and sampling.top_k < scores.shape[0]:
        scores, ids = scores.topk(sampling.top_k)
        probabilities = scores.double().softmax(dim=-1)
    elif sampling.top_p < 1:
        scores, ids, probabilities = _likely(scores, sampling.top_p)
    else:
        probabilities = scores.double().softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    if sampling.top_p < 1:
        num_kept = max(1, int((cumulative - probabilities < sampling.top_p).sum()))
        scores, cumulative = scores[:num_kept], cumulative[:num_kept]
    if sampling.min_p > 0:
        # the largest score is 0, so this compares probabilities with the largest one
        kept = scores.double().softmax(dim=-1).masked_fill_(scores < math.log(sampling.min_p), 0.0)
        cumulative = kept.cumsum(dim=-1)
    threshold = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
    index = min(int(torch.searchsorted(cumulative, threshold, right=True)), cumulative.shape[0] - 1)
    return index if ids is None else int(ids[index])


def _likely(scores: torch.Tensor, mass: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The most probable tokens, at least as many as have ``mass``: scores, ids and probabilities, descending."""
    probabilities = scores.double().softmax(dim=-1)
    best, ids = scores.topk(min(_NUM_LIKELY, len(scores)))
    if len(best) < len(scores) and float(probabilities[ids].sum()) < mass:
        best, ids = scores.sort(descending=True, stable=True)
    return best, ids, probabilities[ids]
