"""Records written by hand, and what is made of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastserve_ray.bench.drive import Run
from fastserve_ray.bench.metrics import sum_up
from fastserve_ray.bench.records import Failure, FailureKind, Record
from fastserve_ray.bench.slo import meets, parse_slo
from fastserve_ray.errors import UsageError

FIRST = Record(0, 0.0, 0.0, 2.0, 10, 5, 10, 5, (0.5, 1.0, 1.5, 2.0))
"""Five tokens in four events."""
SECOND = Record(1, 1.0, 1.25, 4.25, 20, 3, 20, 3, (2.25, 3.25, 4.25))
REFUSED = Record(2, 2.0, 2.0, 2.1, 20, 3, failure=Failure(FailureKind.RATE_LIMITED, "429: slow down", 429, 3.0))


def run(*records: Record) -> Run:
    return Run(len(records), list(records), len(records), seconds=5.0, cpu_seconds=1.0)


def test_the_times_of_one_request() -> None:
    assert (FIRST.ttft, FIRST.jct, FIRST.tpot) == (0.5, 2.0, 1.5 / 4)
    assert FIRST.gaps == [0.5, 0.5, 0.5]
    assert (SECOND.lag, SECOND.ttft, SECOND.tpot) == (0.25, 1.0, 1.0)
    assert (REFUSED.ttft, REFUSED.jct, REFUSED.tpot, REFUSED.gaps) == (None, None, None, [])
    assert Record(0, 0, 0, 1, 4, 1, 4, 1, (0.5,)).tpot is None


def test_a_run_is_summed_up() -> None:
    figures = sum_up(run(FIRST, SECOND, REFUSED), {})
    assert (figures.num_sent, figures.num_answered, figures.num_failed) == (3, 2, 1)
    assert figures.seconds == 4.25
    assert (figures.prompt_tokens, figures.output_tokens) == (30, 8)
    assert figures.output_tokens_per_s == pytest.approx(8 / 4.25)
    assert figures.total_tokens_per_s == pytest.approx(38 / 4.25)
    assert figures.tokens_per_event == pytest.approx(8 / 7)
    assert figures.spreads["ttft"].p50 == 0.5
    assert figures.spreads["ttft"].mean == 0.75
    assert figures.spreads["itl"].count == 5
    assert figures.spreads["jct"].max == 3.0
    assert figures.goodput_per_s is None
    assert figures.client.send_lag_p99_s == 0.25
    assert figures.client.cpu_share == pytest.approx(0.2)
    assert "250 ms late" in figures.client.warnings[0]


def test_failures_are_grouped() -> None:
    other = replace(REFUSED, failure=Failure(FailureKind.TIMEOUT, "not done"))
    groups = sum_up(run(REFUSED, other, REFUSED), {}).failures
    assert [(group.kind, group.count, group.mean_retry_after_s) for group in groups] == [
        ("rate_limited", 2, 3.0),
        ("timeout", 1, None),
    ]
    assert groups[0].example == "429: slow down"


def test_a_run_without_answers_has_figures() -> None:
    figures = sum_up(run(REFUSED), {"ttft": 1.0})
    assert figures.spreads == {}
    assert (figures.requests_per_s, figures.goodput_per_s, figures.goodput_share) == (0.0, 0.0, 0.0)
    assert sum_up(run(), {}).num_sent == 0


def test_goodput_counts_what_keeps_every_limit() -> None:
    figures = sum_up(run(FIRST, SECOND, REFUSED), parse_slo("ttft=600ms,jct=5s"))
    assert figures.goodput_share == pytest.approx(1 / 3)
    assert figures.goodput_per_s == pytest.approx(1 / 4.25)


@pytest.mark.parametrize(
    ("slo", "is_met"),
    [("ttft=500", True), ("ttft=499ms", False), ("ttft=1s,tpot=374ms", False), ("tpot=0.375s,jct=2s", True)],
)
def test_limits(slo: str, is_met: bool) -> None:
    assert meets(FIRST, parse_slo(slo)) is is_met
    assert not meets(REFUSED, parse_slo(slo))


@pytest.mark.parametrize("slo", ["", "ttft", "ttft=", "ttft=0", "itl=5ms", "ttft=5h", "ttft=5ms,", "ttft=nan"])
def test_what_is_no_objective_is_told(slo: str) -> None:
    with pytest.raises(UsageError, match="no objective"):
        parse_slo(slo)
