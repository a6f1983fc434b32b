from __future__ import annotations

import pytest

from fastserve_ray.engines.torch.policies.observed import MIN_COMPLETIONS, WINDOW, ObservedLoad, ServiceDistribution


def test_mean_residual_of_a_few_values() -> None:
    seen = ServiceDistribution([4.0, 1.0, 1.0, 10.0])
    assert seen.mean == 4.0
    assert seen.mean_residual(0.0) == 4.0
    # of 4 and 10
    assert seen.mean_residual(1.0) == 6.0
    assert seen.mean_residual(2.0) == 5.0
    assert seen.mean_residual(4.0) == 6.0
    assert seen.mean_residual(10.0) == 0.0


def test_says_nothing_of_too_few() -> None:
    load = ObservedLoad()
    for at in range(MIN_COMPLETIONS - 1):
        load.note(1.0, float(at))
        assert load.distribution is None
        assert load.completions_per_second is None
    load.note(1.0, float(MIN_COMPLETIONS - 1))
    assert load.distribution is not None
    assert load.completions_per_second == pytest.approx(1.0)


def test_forgets_what_is_old() -> None:
    load = ObservedLoad()
    for at in range(WINDOW):
        load.note(1.0, at * 1.0)
    assert load.distribution is not None
    for at in range(WINDOW):
        load.note(3.0, 1e6 + at * 0.5)
    assert load.distribution.mean == 3.0
    assert load.completions_per_second == pytest.approx(2.0)


def test_all_at_once_has_no_rate() -> None:
    load = ObservedLoad()
    for _ in range(MIN_COMPLETIONS):
        load.note(1.0, 5.0)
    assert load.completions_per_second is None
