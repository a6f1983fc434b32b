from __future__ import annotations

import pytest

from fastserve_ray.engines.torch.profile import Profile

PROFILE = Profile(prefill=((10, 2.0), (20, 3.0), (40, 7.0)), decode_seconds=0.5)


@pytest.mark.parametrize(
    ("tokens", "seconds"),
    # between the points, beyond them with the nearest slope, and never below the shortest iteration
    [(10, 2.0), (15, 2.5), (20, 3.0), (30, 5.0), (40, 7.0), (50, 9.0), (5, 1.5), (1, 1.1), (0, 1.0)],
)
def test_interpolates_and_extrapolates(tokens: int, seconds: float) -> None:
    assert PROFILE.prefill_seconds(tokens) == pytest.approx(seconds)


def test_is_never_less_than_the_shortest_iteration() -> None:
    assert Profile(prefill=((10, 1.0), (20, 5.0)), decode_seconds=0.5).prefill_seconds(2) == 0.5


def test_one_point_is_a_line_through_zero() -> None:
    profile = Profile(prefill=((10, 2.0),), decode_seconds=0.5)
    assert profile.prefill_seconds(30) == pytest.approx(6.0)
    assert profile.prefill_seconds(1) == 0.5


def test_a_fall_by_noise_is_taken_as_flat() -> None:
    assert Profile(prefill=((10, 3.0), (20, 2.0)), decode_seconds=0.5).prefill_seconds(100) == 3.0


def test_one_token_is_a_decode_step() -> None:
    assert PROFILE.service_seconds(1) == 0.5
    assert PROFILE.service_seconds(20) == 3.0


@pytest.mark.parametrize("prefill", [(), ((10, 1.0), (10, 2.0)), ((20, 1.0), (10, 2.0))])
def test_refuses_lengths_that_do_not_ascend(prefill: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        Profile(prefill=prefill, decode_seconds=0.5)
