"""Request lengths and arrival times: published traces scaled to a small model, and a heavy-tailed distribution."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from fastserve_ray.engines.simulation.outcome import Arrival

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_MODEL_LEN = 1024
SCALE = 1 / 8
"""Of the traces' lengths: 8,192 tokens become 1,024."""
LOGNORMAL_SIGMA = 1.5
LOGNORMAL_MEAN = 48
"""Tokens, before the longest are cut to what the model takes."""
LOGNORMAL_PROMPT = (8, 64)

Lengths = tuple[int, int]
"""(prompt tokens, completion tokens)."""


@dataclass(frozen=True)
class Workload:
    """Requests in a fixed order, without times."""

    name: str
    lengths: tuple[Lengths, ...]

    def arrivals(self, rate: float, seconds: float, *, seed: int = 0) -> list[Arrival]:
        """Open-loop: a Poisson process of ``rate`` requests a second; what comes does not depend on what is done."""
        draw = random.Random(seed)
        arrivals: list[Arrival] = []
        now = draw.expovariate(rate)
        while now < seconds:
            prompt, completion = self.lengths[len(arrivals) % len(self.lengths)]
            arrivals.append(Arrival(now, prompt, completion))
            now += draw.expovariate(rate)
        return arrivals


def azure_conv(folder: Path) -> Workload:
    """Lengths of Azure's conversation trace of 2023 (Patel et al., Splitwise, ISCA 2024)."""
    return _from_trace("azure_2023_conv", folder, "context_tokens", "generated_tokens")


def sharegpt(folder: Path) -> Workload:
    """Lengths of ShareGPT conversations of up to 8,192 tokens (project etalon)."""
    return _from_trace("sharegpt_8k_lengths", folder, "prefill_tokens", "decode_tokens")


TRACES: dict[str, Callable[[Path], Workload]] = {"azure_2023_conv": azure_conv, "sharegpt_8k_lengths": sharegpt}


def lognormal(*, count: int = 20_000, seed: int = 0) -> Workload:
    """Completions of a lognormal length with σ = 1.5: most are short, a tenth of them are half of the work."""
    draw = random.Random(seed)
    # the mean of a lognormal is median * exp(σ² / 2)
    median = LOGNORMAL_MEAN / math.exp(LOGNORMAL_SIGMA**2 / 2)
    rows = [(draw.randint(*LOGNORMAL_PROMPT), median * draw.lognormvariate(0, LOGNORMAL_SIGMA)) for _ in range(count)]
    return Workload("lognormal 1.5", tuple(_cut(prompt, completion) for prompt, completion in rows))


def _from_trace(name: str, folder: Path, prompt: str, completion: str, *, seed: int = 0) -> Workload:
    """The trace's lengths in random order, so that any run's beginning is a sample of the whole."""
    table = pq.read_table(folder / f"{name}.parquet", columns=[prompt, completion])
    rows = list(zip(table[prompt].to_pylist(), table[completion].to_pylist(), strict=True))
    random.Random(seed).shuffle(rows)
    return Workload(name, tuple(_cut(tokens * SCALE, generated * SCALE) for tokens, generated in rows))


def _cut(prompt: float, completion: float) -> Lengths:
    """To whole tokens, at least one of each, that fit the model together."""
    num_completion = min(max(1, round(completion)), MAX_MODEL_LEN * 3 // 4)
    return min(max(1, round(prompt)), MAX_MODEL_LEN - num_completion), num_completion
