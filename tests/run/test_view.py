"""What events add up to, and the words for it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.events.event import Event
from fastserve_ray.run import words
from fastserve_ray.run.render_plain import PlainRenderer
from fastserve_ray.run.view import RunView

if TYPE_CHECKING:
    from pydantic import JsonValue


def event(time: float, kind: str, stage: str | None = "train", **fields: JsonValue) -> Event:
    return Event(time, kind, stage, "driver", fields)


def progress(time: float, step: int, **fields: JsonValue) -> Event:
    return event(time, "stage_progress", "train", step=step, total=100, **fields)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (12.3, "12 s"), (59.4, "59 s"), (185, "3m 05s"), (7620, "2h 07m")]
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(85.4, "85"), (3210.0, "3.2k"), (1.5e6, "1.5M")])
def test_rates(value: float, text: str) -> None:
    assert words.rate(value) == text


def test_metrics_name_quality_first() -> None:
    metrics = {"seconds": 3.0, "eval_loss": 3.21456, "steps": 7, "eval_accuracy": 0.5}
    assert words.metrics_line(metrics) == "eval_loss 3.215  eval_accuracy 0.5  seconds 3  steps 7"


def test_time_left_comes_from_the_pace_so_far() -> None:
    view = RunView()
    view.apply(event(0.0, "stage_started"))
    view.apply(progress(10.0, 20, loss=5.0))
    stage = view.apply(progress(20.0, 40, loss=4.5, tokens_per_second=3200.0))
    assert stage is not None
    assert stage.seconds_left() == pytest.approx(30.0)
    assert stage.progress_line() == "40/100  loss 4.5  3.2k tok/s  30 s left"


def test_a_new_total_begins_a_new_pace() -> None:
    view = RunView()
    view.apply(event(0.0, "stage_progress", step=1000, total=1000))
    view.apply(progress(10.0, 0))
    stage = view.apply(progress(11.0, 10))
    assert stage is not None
    assert stage.seconds_left() == pytest.approx(9.0)


def test_the_end_of_a_stage() -> None:
    view = RunView()
    view.apply(event(0.0, "stage_started"))
    stage = view.apply(event(12.0, "stage_finished", artifact="train-1", metrics={"eval_loss": 3.2}))
    assert stage is not None
    assert stage.end_line() == "12 s  eval_loss 3.2  train-1"


def test_events_of_the_run_are_no_stage() -> None:
    view = RunView()
    assert view.apply(event(0.0, "run_started", stage=None)) is None
    assert view.stages == {}


class Plain:
    """A renderer with a clock, and its output."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.now = 0.0
        self.renderer = PlainRenderer(self.stream, clock=lambda: self.now)

    def show(self, *events: Event) -> list[str]:
        """Lines that these events add."""
        before = len(self.stream.getvalue())
        self.renderer.show(list(events))
        return self.stream.getvalue()[before:].splitlines()


def test_plain_lines_for_starts_and_ends() -> None:
    plain = Plain()
    assert plain.show(event(0, "run_started", None, run_id="tiny-1")) == ["[run] tiny-1"]
    assert plain.show(event(0, "stage_skipped", "data", artifact="data-1", metrics={})) == [
        "[data] skipped: already published  data-1"
    ]
    assert plain.show(event(1, "stage_started")) == ["[train] started"]
    assert plain.show(event(4, "stage_finished", artifact="train-1", metrics={"eval_loss": 3.0})) == [
        "[train] finished: 3.0 s  eval_loss 3  train-1"
    ]
    assert plain.show(event(5, "stage_failed", "verify", error="too bad\n  details")) == ["[verify] failed: too bad"]


def test_plain_progress_at_most_every_two_seconds() -> None:
    plain = Plain()
    plain.show(event(0, "stage_started"))
    lines = plain.show(*(progress(time / 10, time) for time in range(1, 60)))
    assert len(lines) == 2
    assert lines[0].startswith("[train] 20/100")
    assert plain.show(progress(6.0, 100)) == ["[train] 100/100"]


def test_a_silent_stage_shows_that_it_lives() -> None:
    plain = Plain()
    plain.show(event(0, "stage_started"))
    plain.now = 9.0
    assert plain.show() == []
    plain.now = 11.0
    assert plain.show() == ["[train] running for 11 s"]
    assert plain.show() == []


def test_trials_and_warnings() -> None:
    plain = Plain()
    trial = event(1, "trial_finished", "tune", trial="trial-003", parameters={"lr": 0.001}, metrics={"eval_loss": 4.25})
    assert plain.show(trial) == ["[tune] trial-003: eval_loss 4.25  (lr=0.001)"]
    assert plain.show(event(2, "warning", message="slow")) == ["[train] warning: slow"]


def test_what_is_served_is_shown_with_the_way_to_repeat_it() -> None:
    text = "\n".join(
        Plain().show(
            event(
                1,
                "served",
                "serve",
                url="http://127.0.0.1:8000",
                model="tiny",
                prompt="Once",
                answer=" upon",
                curl="curl http://127.0.0.1:8000/v1/completions -d '{}'",
                links={"metrics": "http://127.0.0.1:8000/metrics"},
            )
        )
    )
    assert "Serving tiny at http://127.0.0.1:8000" in text
    assert "answer  ' upon'" in text
    assert "  curl http://127.0.0.1:8000/v1/completions -d '{}'" in text
    assert "metrics  http://127.0.0.1:8000/metrics" in text
