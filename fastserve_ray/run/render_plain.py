"""A run's events as plain lines, for pipes, logs and CI."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from fastserve_ray.run import words
from fastserve_ray.run.served import served_lines
from fastserve_ray.run.view import RunView, StageView

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.events.event import Event

PROGRESS_SECONDS = 2.0
HEARTBEAT_SECONDS = 10.0


class PlainRenderer:
    """Every start and end, and at most one progress line in two seconds for each stage.

    A stage that says nothing gets a line every ten seconds, so that a log shows it is alive.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._clock = clock
        self._view = RunView()
        self._shown: dict[str, float] = {}

    def show(self, events: list[Event]) -> None:
        """Print what is worth a line; called with no events too, for the heartbeat."""
        for event in events:
            stage = self._view.apply(event)
            self._show_event(event, stage)
        for stage in self._view.stages.values():
            self._show_heartbeat(stage)

    def close(self) -> None:
        """Nothing is kept back."""

    def _show_event(self, event: Event, stage: StageView | None) -> None:
        name = event.stage or "run"
        match event.kind:
            case "run_started":
                self._line("run", str(event.fields.get("run_id", "")))
            case "stage_started":
                self._line(name, "started", at=event.time)
            case "stage_finished" | "stage_skipped" | "stage_failed" if stage is not None:
                self._line(name, f"{stage.status}: {stage.end_line()}")
            case "stage_progress" if stage is not None:
                self._show_progress(stage, event.time)
            case "trial_finished":
                self._line(name, trial_line(event))
            case "warning":
                self._line(name, f"warning: {event.fields.get('message')}")
            case "served":
                self._stream.write("\n".join(served_lines(event.fields)) + "\n")
                self._stream.flush()

    def _show_progress(self, stage: StageView, now: float) -> None:
        if now - self._shown.get(stage.name, 0.0) >= PROGRESS_SECONDS or stage.step == stage.total:
            self._line(stage.name, stage.progress_line(), at=now)

    def _show_heartbeat(self, stage: StageView) -> None:
        now = self._clock()
        if stage.status == "running" and now - self._shown.get(stage.name, now) >= HEARTBEAT_SECONDS:
            line = f"running for {words.duration(now - stage.started)}  {stage.progress_line()}"
            self._line(stage.name, line.rstrip(), at=now)

    def _line(self, name: str, text: str, *, at: float | None = None) -> None:
        if at is not None:
            self._shown[name] = at
        self._stream.write(f"[{name}] {text}\n")
        self._stream.flush()


def trial_line(event: Event) -> str:
    """``trial-003: eval_loss 4.2  (train.learning_rate=0.001)``."""
    metrics, parameters = event.fields.get("metrics"), event.fields.get("parameters")
    figures = words.metrics_line(metrics) if isinstance(metrics, dict) else ""
    chosen = parameters.items() if isinstance(parameters, dict) else ()
    values = ", ".join(f"{name}={words.number(value)}" for name, value in chosen)
    return f"{event.fields.get('trial')}: {figures}  ({values})"
