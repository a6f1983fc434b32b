"""Shares of a batch by measured speed, without a clock."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastserve_ray.training.balance.fit import Line, Observations
from fastserve_ray.training.balance.policy import WORTHWHILE, Change, propose
from fastserve_ray.training.balance.shares import MOST, best_shares, cut_points, even_shares, step_seconds


def observed(line: Line, rows: list[int], *, noise: float = 0.0, outliers: int = 0) -> Observations:
    random, found = np.random.default_rng(0), Observations()
    for number, count in enumerate(rows):
        factor = 10.0 if number < outliers else 1 + noise * random.standard_normal()
        found.add(count, line(count) * factor)
    return found


def test_a_line_is_found_through_noise_and_outliers() -> None:
    true = Line(0.2, 0.05)
    found = observed(true, [8, 16, 8, 16, 8] * 8, noise=0.02, outliers=4).line()
    assert found is not None
    assert found.a == pytest.approx(true.a, rel=0.2)
    assert found.b == pytest.approx(true.b, rel=0.1)


def test_one_number_of_rows_is_a_line_through_zero() -> None:
    found = observed(Line(0.2, 0.05), [8] * 5).line()
    assert found is not None
    assert found.a == 0
    assert found.b == pytest.approx(0.075)
    assert Observations().line() is None
    assert observed(Line(0.2, 0.05), [0, 0]).line() is None


@pytest.mark.parametrize("points", [[(4, 1.0), (8, 0.5)], [(4, 1.0), (8, 3.0)]])
def test_noise_makes_no_slope_or_constant_negative(points: list[tuple[int, float]]) -> None:
    found = Observations()
    for rows, seconds in points:
        found.add(rows, seconds)
    line = found.line()
    assert line is not None
    assert line.a == 0
    assert line.b > 0


def test_old_observations_fade() -> None:
    found = observed(Line(0.0, 0.1), [8] * 100)
    for _ in range(32):
        found.add(8, 0.4)
    line = found.line()
    assert line is not None
    assert line.b == pytest.approx(0.05)


@pytest.mark.parametrize("batch_size", [2, 7, 12])
def test_no_other_shares_are_faster_by_more_than_a_row(batch_size: int) -> None:
    lines = [Line(0.1, 0.02), Line(0.0, 0.05)]
    found = best_shares(lines, batch_size)
    others = [
        step_seconds(lines, rows)
        for rows in itertools.product(range(1, batch_size + 1), repeat=2)
        if sum(rows) == batch_size and max(rows) <= MOST * batch_size / 2
    ]
    assert sum(found) == batch_size
    assert step_seconds(lines, found) == pytest.approx(min(others))


@pytest.mark.parametrize("seed", range(20))
def test_shares_sum_up_and_keep_their_bounds(seed: int) -> None:
    random = np.random.default_rng(seed)
    workers = int(random.integers(1, 9))
    batch_size = int(random.integers(1, 200))
    lines = [Line(float(random.uniform(0, 0.5)), float(random.uniform(0.001, 0.1))) for _ in range(workers)]
    shares = best_shares(lines, batch_size)
    assert sum(shares) == batch_size
    if batch_size >= workers:
        assert min(shares) >= 1
        assert max(shares) <= max(MOST * batch_size / workers, 1)
        assert step_seconds(lines, shares) <= step_seconds(lines, even_shares(batch_size, workers)) * 1.0001


@pytest.mark.parametrize(("factor", "gain"), [(2, 0.5), (4, 1.5)])
def test_a_slowed_worker_gets_its_part(factor: int, gain: float) -> None:
    """The ideal of two workers is (factor + 1) / 2 times the throughput."""
    change = propose([Line(0.0, 0.01), Line(0.0, 0.01 * factor)], (60, 60))
    assert change is not None
    assert change.shares == (120 * factor // (factor + 1), 120 // (factor + 1))
    assert change.gain == pytest.approx(gain, abs=0.01)
    assert propose([Line(0.0, 0.01), Line(0.0, 0.01 * factor)], change.shares) is None


def test_a_gain_that_is_small_changes_nothing() -> None:
    lines = [Line(0.0, 0.010), Line(0.0, 0.0108)]
    assert propose(lines, (50, 50)) is None
    assert isinstance(propose([Line(0.0, 0.010), Line(0.0, 0.012)], (50, 50)), Change)
    assert propose([Line(0.0, 0.010), Line(0.0, 0.012)], (50, 50), overhead=5.0) is None
    assert WORTHWHILE == 0.05


def test_a_smaller_batch_is_cut_in_the_same_proportions() -> None:
    assert cut_points(12, (8, 4)) == [0, 8, 12]
    assert cut_points(6, (8, 4)) == [0, 4, 6]
    assert cut_points(2, (4, 4, 4)) == [0, 0, 1, 2]
    assert even_shares(8, 3) == (3, 3, 2)


def test_it_settles_where_the_constants_differ() -> None:
    """Fits see one number of rows at first, and a second one after the first change."""
    true = [Line(0.05, 0.010), Line(0.20, 0.025)]
    shares, seen = even_shares(64, 2), [Observations(), Observations()]
    for _ in range(6):
        for observations, line, rows in zip(seen, true, shares, strict=True):
            for _ in range(8):
                observations.add(rows, line(rows))
        lines = [found for observations in seen if (found := observations.line()) is not None]
        change = propose(lines, shares)
        shares = shares if change is None else change.shares
    best = step_seconds(true, best_shares(true, 64))
    assert step_seconds(true, shares) <= best * (1 + WORTHWHILE)
