"""When requests come: seconds from the start of the run, in order."""

from __future__ import annotations

import random
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = ("poisson", "gamma", "fixed")


def arrival_times(kind: str, rate: float, count: int, *, burstiness: float = 1.0, seed: int = 0) -> list[float]:
    """``count`` times of a process with ``rate`` arrivals a second; the first request comes at 0.

    Args:
        kind: ``fixed``: equal gaps; ``poisson``: exponential gaps; ``gamma``: gaps of the gamma distribution.
        burstiness: of ``gamma``: the shape of its gaps, whose squared coefficient of variation is 1 / burstiness. 1 is
            Poisson, less is more bursty (the measure of vLLM's benchmark).
    """
    source = random.Random(seed)
    gaps = (_gap(kind, rate, burstiness, source) for _ in range(max(0, count - 1)))
    return list(accumulate(gaps, initial=0.0))[:count]


def _gap(kind: str, rate: float, burstiness: float, source: random.Random) -> float:
    if kind == "fixed":
        return 1 / rate
    if kind == "poisson":
        return source.expovariate(rate)
    assert kind == "gamma", kind
    return source.gammavariate(burstiness, 1 / (rate * burstiness))


def poisson_given_count(count: int, seconds: float, seed: int) -> list[float]:
    """A Poisson process in ``seconds``, given the number of its arrivals: the load is exact in every sample."""
    source = random.Random(seed)
    return sorted(source.uniform(0, seconds) for _ in range(count))


def stretched(times: Sequence[float], rate: float) -> list[float]:
    """``times`` from 0, stretched so that ``rate`` arrive in a second; bursts stay what they were."""
    start = times[0]
    span = times[-1] - start
    factor = (len(times) - 1) / rate / span if span > 0 else 0.0
    return [(time - start) * factor for time in times]
