"""Token counts from the command line."""

from __future__ import annotations

import random
from statistics import fmean, pstdev

import pytest

from fastserve_ray.bench.lengths import parse_lengths
from fastserve_ray.errors import UsageError


def draws(text: str, count: int = 20_000) -> list[int]:
    source = random.Random(0)
    lengths = parse_lengths(text, "--input")
    return [lengths.draw(source) for _ in range(count)]


def test_a_number_is_always_itself() -> None:
    assert set(draws("128", 50)) == {128}


def test_uniform_keeps_both_ends() -> None:
    found = draws("uniform:3:5")
    assert set(found) == {3, 4, 5}


@pytest.mark.parametrize(("text", "mean"), [("normal:100:10", 100), ("lognormal:384:1", 384), ("exponential:50", 50)])
def test_means_are_as_said(text: str, mean: float) -> None:
    assert fmean(draws(text)) == pytest.approx(mean, rel=0.05)


def test_the_deviation_is_as_said() -> None:
    assert pstdev(draws("normal:100:10")) == pytest.approx(10, rel=0.05)


def test_no_count_is_below_one() -> None:
    assert min(draws("normal:2:10")) == 1


@pytest.mark.parametrize("text", ["", "x", "0", "uniform:5", "uniform:9:5", "normal:5:-1", "zipf:2", "inf", "128:2"])
def test_what_makes_no_counts_is_told(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_lengths(text, "--output")
    assert error.value.key == "--output"
