from __future__ import annotations

import pytest

from fastserve_ray.engines.simulation.outcome import Outcome, percentile, summarize


def test_summary_by_hand() -> None:
    outcomes = [
        Outcome(arrived=0.0, first_token=1.0, finished=4.0, num_completion_tokens=4, num_preemptions=1),
        Outcome(arrived=2.0, first_token=5.0, finished=10.0, num_completion_tokens=2),
    ]
    summary = summarize(outcomes, peak_blocks=7, swap_seconds=0.5, run_seconds=10.0)
    assert summary.num_requests == 2
    assert summary.mean_per_token == pytest.approx((1.0 + 4.0) / 2)
    assert summary.p95_per_token == 4.0
    assert summary.mean_first_token == pytest.approx(2.0)
    assert summary.mean_completion == pytest.approx(6.0)
    assert summary.p99_completion == 8.0
    assert summary.preemptions_per_request == 0.5
    assert summary.peak_blocks == 7
    assert summary.swap_share == pytest.approx(0.05)


@pytest.mark.parametrize(("percent", "value"), [(1, 1), (50, 50), (95, 95), (99, 99), (100, 100)])
def test_percentile_is_the_nearest_rank(percent: int, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == value


def test_nothing_cannot_be_summed_up() -> None:
    with pytest.raises(ValueError, match="no completed request"):
        summarize([], peak_blocks=0, swap_seconds=0.0, run_seconds=1.0)
