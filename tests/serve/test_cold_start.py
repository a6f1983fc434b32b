"""The phases of a start, with a clock of the test's."""

from __future__ import annotations

import pytest

from fastserve_ray.serve.cold_start import ColdStart


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def started(*, sent_at: float | None, process_began: float = 11.0, asked_at: float | None = 10.5) -> ColdStart:
    """Asked for at 10.5, in a process of 11; code at 12, import to 15, weights to 16; a call at 16.5, its token 17."""
    clock = Clock(12.0)
    start = ColdStart(process_began, clock)
    if asked_at is not None:
        start.asked(asked_at)
    for name, end in (("import", 15.0), ("weights", 16.0)):
        with start.phase(name):
            clock.now = end
    assert start.phases().keys() <= {"placement", "process", "import", "weights"}
    clock.now = 16.5
    start.arrived(sent_at)
    clock.now = 17.0
    assert start.first_token()
    clock.now = 20.0
    start.arrived(19.0)
    assert not start.first_token()
    return start


def test_phases_add_up_to_the_wait_of_the_first_request() -> None:
    start = started(sent_at=10.0)
    assert start.was_waited_for
    assert start.phases() == pytest.approx(
        {
            "decision": 0.5,
            "placement": 0.5,
            "process": 1.0,
            "import": 3.0,
            "weights": 1.0,
            "route": 0.5,
            "first_token": 0.5,
        }
    )
    assert list(start.phases()) == ["decision", "placement", "process", "import", "weights", "route", "first_token"]
    assert sum(start.phases().values()) == pytest.approx(17.0 - 10.0)
    assert start.line().startswith("cold start: first token after 7.00 s: decision 0.50 s, placement")


def test_a_replica_that_nobody_waited_for_has_no_decision() -> None:
    for sent_at in (16.4, None):
        start = started(sent_at=sent_at)
        assert set(start.phases()) == {"placement", "process", "import", "weights", "first_token"}
        assert start.line().startswith("replica start: placement 0.50 s")


def test_a_process_that_ray_held_ready_takes_no_placement() -> None:
    phases = started(sent_at=10.0, process_began=3.0).phases()
    assert (phases["placement"], phases["process"]) == (0.0, 1.5)


def test_what_serve_does_not_say_is_left_out() -> None:
    assert set(started(sent_at=10.0, asked_at=None).phases()) == {"import", "weights", "route", "first_token"}
