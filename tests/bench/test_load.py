"""From a trace or distributions to requests with times."""

from __future__ import annotations

import pytest

from fastserve_ray.bench.lengths import Lengths
from fastserve_ray.bench.load import DEFAULT_REQUESTS, Load
from fastserve_ray.bench.traces import TraceRow
from fastserve_ray.errors import UsageError

FOUR = Lengths("fixed", (4,))
TIMED = [TraceRow(0.0, 100, 10), TraceRow(1.0, 200, 20), TraceRow(4.0, 300, 30)]
UNTIMED = [TraceRow(None, 100, 10), TraceRow(None, 200, 20)]


def test_a_duration_ends_the_arrivals() -> None:
    rows = Load(rate=10.0, arrivals="fixed", duration_s=2.0).drawn(FOUR, FOUR)
    assert [row.at for row in rows] == pytest.approx([at / 10 for at in range(20)])


def test_bursts_fill_a_duration_too() -> None:
    for seed in range(20):
        rows = Load(rate=50.0, arrivals="gamma", burstiness=0.05, duration_s=20.0, seed=seed).drawn(FOUR, FOUR)
        assert 200 < len(rows) < 2500


def test_a_number_of_requests_is_kept() -> None:
    assert len(Load(rate=10.0, num_requests=7).drawn(FOUR, FOUR)) == 7
    assert len(Load().drawn(FOUR, FOUR)) == DEFAULT_REQUESTS


def test_users_have_no_times() -> None:
    rows = Load(users=3, num_requests=5).drawn(FOUR, FOUR)
    assert rows == [TraceRow(None, 4, 4)] * 5
    assert [row.at for row in Load(users=3).traced(TIMED)] == [None, None, None]


def test_a_closed_loop_has_no_rate() -> None:
    with pytest.raises(UsageError, match="closed loop"):
        Load(users=3, rate=1.0)


def test_a_traces_own_times_are_kept() -> None:
    assert Load().traced(TIMED) == TIMED
    assert [row.at for row in Load(duration_s=2.0).traced(TIMED)] == [0.0, 1.0]


def test_a_rate_stretches_a_traces_times() -> None:
    assert [row.at for row in Load(rate=1.0).traced(TIMED)] == [0.0, 0.5, 2.0]


def test_arrivals_replace_a_traces_times() -> None:
    rows = Load(rate=2.0, arrivals="fixed").traced(TIMED)
    assert [row.at for row in rows] == [0.0, 0.5, 1.0]
    assert [row.num_prompt_tokens for row in rows] == [100, 200, 300]


def test_lengths_without_times_need_a_rate() -> None:
    with pytest.raises(UsageError, match="no times"):
        Load().traced(UNTIMED)
    assert [row.at for row in Load(rate=2.0, arrivals="fixed").traced(UNTIMED)] == [0.0, 0.5]


def test_lengths_are_cut() -> None:
    rows = Load(max_input=150, max_output=15).traced(TIMED)
    assert [(row.num_prompt_tokens, row.num_completion_tokens) for row in rows] == [(100, 10), (150, 15), (150, 15)]
