"""When requests come."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean, pvariance

import pytest

from fastserve_ray.bench.arrivals import KINDS, arrival_times, poisson_given_count, stretched


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_is_as_said(kind: str) -> None:
    times = arrival_times(kind, 4.0, 20_000, burstiness=0.5, seed=1)
    assert len(times) == 20_000
    assert times[0] == 0
    assert fmean(gaps(times)) == pytest.approx(0.25, rel=0.05)


def test_fixed_gaps_are_equal() -> None:
    assert arrival_times("fixed", 2.0, 4) == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(("kind", "burstiness", "variation"), [("poisson", 9.0, 1.0), ("gamma", 0.25, 4.0)])
def test_burstiness_is_one_over_the_squared_variation(kind: str, burstiness: float, variation: float) -> None:
    found = gaps(arrival_times(kind, 3.0, 50_000, burstiness=burstiness))
    assert pvariance(found) / fmean(found) ** 2 == pytest.approx(variation, rel=0.1)


def test_a_seed_decides_the_times() -> None:
    assert arrival_times("poisson", 1.0, 5, seed=3) == arrival_times("poisson", 1.0, 5, seed=3)
    assert arrival_times("poisson", 1.0, 5, seed=3) != arrival_times("poisson", 1.0, 5, seed=4)


def test_a_given_count_fills_the_time() -> None:
    times = poisson_given_count(1000, 10.0, 0)
    assert len(times) == 1000
    assert times == sorted(times)
    assert fmean(times) == pytest.approx(5.0, rel=0.1)


def test_stretching_keeps_the_pattern() -> None:
    assert stretched([10.0, 11.0, 14.0], 0.5) == [0.0, 1.0, 4.0]
    assert stretched([5.0, 5.0], 2.0) == [0.0, 0.0]
