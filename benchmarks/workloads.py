"""Request lengths and arrival times: published traces scaled to a small model, and a heavy-tailed distribution."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.bench.arrivals import poisson_given_count
from fastserve_ray.bench.lengths import draw_lognormal
from fastserve_ray.bench.traces import read_trace
from fastserve_ray.engines.simulation.outcome import Arrival

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRACE_LEN = 8192
"""Tokens of a request at most: traces are scaled by what the model takes over this."""
LOGNORMAL_SIGMA = 1.5
LOGNORMAL_MEAN = 384
"""Tokens of a completion, at full scale and before the longest are cut to what the model takes."""
LOGNORMAL_PROMPT = (64, 512)

Lengths = tuple[int, int]
"""(prompt tokens, completion tokens)."""


@dataclass(frozen=True)
class Workload:
    """Requests in a fixed order, without times."""

    name: str
    lengths: tuple[Lengths, ...]

    def arrivals(self, tokens_per_second: float, seconds: float, *, seed: int = 0) -> list[Arrival]:
        """Open-loop: what comes does not depend on what is done. A Poisson process given the number of its arrivals,
        which is chosen so that the completions add up to ``tokens_per_second``: the load is exact in every sample."""
        lengths, to_come = [], tokens_per_second * seconds
        for prompt, completion in itertools.cycle(self.lengths):
            if to_come <= 0:
                break
            lengths.append((prompt, completion))
            to_come -= completion
        times = poisson_given_count(len(lengths), seconds, seed)
        return [Arrival(at, *tokens) for at, tokens in zip(times, lengths, strict=True)]

    def at_once(self, count: int) -> list[Arrival]:
        """The first ``count`` requests, all there at the start."""
        return [Arrival(0.0, *tokens) for tokens in itertools.islice(itertools.cycle(self.lengths), count)]


def azure_conv(folder: Path, max_model_len: int) -> Workload:
    """Lengths of Azure's conversation trace of 2023 (Patel et al., Splitwise, ISCA 2024)."""
    return _from_trace("azure_2023_conv", folder, max_model_len)


def sharegpt(folder: Path, max_model_len: int) -> Workload:
    """Lengths of ShareGPT conversations of up to 8,192 tokens (project etalon)."""
    return _from_trace("sharegpt_8k_lengths", folder, max_model_len)


TRACES: dict[str, Callable[[Path, int], Workload]] = {"azure_2023_conv": azure_conv, "sharegpt_8k_lengths": sharegpt}


def lognormal(max_model_len: int, *, count: int = 20_000, seed: int = 0) -> Workload:
    """Completions of a lognormal length with σ = 1.5: a tenth of them are more than half of the work."""
    draw = random.Random(seed)
    rows = [
        (draw.randint(*LOGNORMAL_PROMPT), draw_lognormal(draw, LOGNORMAL_MEAN, LOGNORMAL_SIGMA)) for _ in range(count)
    ]
    return Workload("lognormal 1.5", tuple(_scaled(*row, max_model_len) for row in rows))


def _from_trace(name: str, folder: Path, max_model_len: int, *, seed: int = 0) -> Workload:
    """The trace's lengths in random order, so that any run's beginning is a sample of the whole."""
    rows = [(row.num_prompt_tokens, row.num_completion_tokens) for row in read_trace(folder / f"{name}.parquet")]
    random.Random(seed).shuffle(rows)
    return Workload(name, tuple(_scaled(*row, max_model_len) for row in rows))


def _scaled(prompt: float, completion: float, max_model_len: int) -> Lengths:
    """To whole tokens, at least one of each, that fit the model together."""
    scale = max_model_len / TRACE_LEN
    num_completion = min(max(1, round(completion * scale)), max_completion(max_model_len))
    return min(max(1, round(prompt * scale)), max_model_len - num_completion), num_completion


def max_completion(max_model_len: int) -> int:
    """Tokens that a request allows for its completion: three quarters of what the model takes."""
    return max_model_len * 3 // 4
