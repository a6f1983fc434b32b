"""Results to rows."""

from __future__ import annotations

import pytest

from benchmarks.peers.process import Result, proportional_bytes
from benchmarks.peers.table import Measured, agreement, table_rows


def result(*tokens: int, first: float = 1.0, seconds: float = 2.0) -> Result:
    return Result(first, seconds, tokens)


def measured(precision: str, seconds: float, *, is_ours: bool = False) -> Measured:
    """One batch of two requests, six tokens, whose last is done after ``seconds``; one request alone, as long."""
    batch = [result(1, 2, seconds=seconds / 2), result(3, 4, 5, 6, seconds=seconds)]
    return Measured(
        precision,
        is_ours,
        ready_seconds=[3.0],
        peak_bytes=2**30,
        batches=[batch],
        singles=[result(1, 2, 3, first=0.0, seconds=seconds)],
    )


def test_speed_counts_all_tokens_until_the_last_request_is_done() -> None:
    one = measured("fp32", 2.0)
    assert one.batch_speed == 3.0
    assert one.mean_completion_seconds == 1.5
    assert one.decode_speed == 1.0


def test_figures_are_medians_of_the_rounds() -> None:
    one = measured("fp32", 2.0)
    one.batches += [[result(1, seconds=100.0)], [result(1, 2, 3, 4, seconds=2.0)]]
    assert one.batch_speed == 2.0


def test_float32_is_compared_in_float32_and_the_rest_with_the_best_of_all() -> None:
    rows = table_rows(
        {
            "ours": measured("fp32", 2.0, is_ours=True),
            "ours int8": measured("int8", 1.0, is_ours=True),
            "peer": measured("fp32", 4.0),
            "peer int8": measured("int8", 0.5),
        }
    )
    assert [row["/ best peer"] for row in rows] == [2.0, 0.5, 1.0, 1.0]


def test_a_peer_that_failed_has_a_row_that_says_why_and_is_nobodys_rival() -> None:
    absent = Measured("fp32", False, failure="no environment")
    rows = table_rows({"ours": measured("fp32", 2.0, is_ours=True), "peer": absent})
    assert rows[1] == {"engine": "peer", "note": "did not run: no environment"}
    assert rows[0]["/ best peer"] is None


@pytest.mark.parametrize(("tokens", "share"), [((1, 2, 3, 4), 1.0), ((1, 2, 9, 4), 0.5), ((9, 2, 3, 4), 0.0)])
def test_agreement_ends_at_the_first_token_that_differs(tokens: tuple[int, ...], share: float) -> None:
    assert agreement([result(*tokens)], [result(1, 2, 3, 4)]) == share


def test_pss_is_read_in_bytes() -> None:
    assert proportional_bytes("5500-7fff [rollup]\nRss: 900 kB\nPss: 700 kB\nPss_Dirty: 5 kB\n") == 700 * 1024
