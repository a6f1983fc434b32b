"""A replica's account of what it has to do."""

from __future__ import annotations

from fastserve_ray.serve.calls import GateLoad
from fastserve_ray.serve.ledger import WAITING_LIFETIME_S, Ledger
from fastserve_ray.serve.routing.policy import Report
from fastserve_ray.serve.routing.work import ExpectedWork


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_work_shrinks_as_tokens_come_and_is_never_nothing_before_the_end() -> None:
    ledger = Ledger(Clock())
    entry = ledger.begin(ExpectedWork(100.0, 20.0, max_completion_tokens=60.0))
    other = ledger.begin(ExpectedWork(5.0, 5.0))
    assert ledger.num_tokens == 130.0
    entry.advance(3)
    assert ledger.num_tokens == 27.0
    entry.advance(25)
    assert ledger.num_tokens == 35.0, "longer than expected: as long again"
    entry.advance(50)
    assert ledger.num_tokens == 20.0, "but no longer than the call allows"
    entry.advance(60)
    assert ledger.num_tokens == 11.0
    ledger.end(entry)
    ledger.end(other)
    ledger.end(other)
    assert ledger.num_tokens == 0.0


def test_without_work_nothing_is_told_that_changes() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    before = ledger.report(64)
    ledger.end(ledger.begin(ExpectedWork(100.0, 20.0, "a")))
    clock.now += 1
    assert ledger.report(64) == before == {"cache_tokens": 64}


def test_senders_are_told_apart_and_a_single_one_is_told_too() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ended = ledger.begin(ExpectedWork(100.0, 20.0, "a"))
    assert Report(**ledger.report(64)) == Report({"a": 120.0}, cache_tokens=64, at=100.0)  # type: ignore[arg-type]
    ledger.begin(ExpectedWork(1.0, 2.0, "b"))
    ledger.begin(ExpectedWork(1.0, 2.0, "b"))
    assert ledger.report(64)["outstanding"] == {"a": 120.0, "b": 6.0}
    ledger.end(ended)
    clock.now += 1
    assert Report(**ledger.report(64)) == Report({"b": 6.0}, cache_tokens=64, at=101.0)  # type: ignore[arg-type]


def test_what_waits_at_gates_counts_until_nobody_tells_of_it() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ledger.begin(ExpectedWork(100.0, 20.0, "a"))
    ledger.note(GateLoad("a", 1000.0))
    ledger.note(GateLoad("b", 50.0))
    ledger.note(GateLoad("a", 300.0))
    assert (ledger.num_waiting_tokens, ledger.num_tokens) == (350.0, 120.0)
    ledger.note(GateLoad("b", 0.0))
    assert ledger.num_waiting_tokens == 300.0
    clock.now += WAITING_LIFETIME_S
    assert ledger.num_waiting_tokens == 0.0
