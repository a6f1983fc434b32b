"""What the events of a run add up to: one state for each stage. Pure, so that it is tested without a terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from fastserve_ray.run import words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import JsonValue

    from fastserve_ray.events.event import Event

Status = Literal["running", "finished", "skipped", "failed"]


@dataclass
class StageView:
    """One stage as its events tell it; times are those of the events."""

    name: str
    status: Status
    started: float
    ended: float | None = None
    step: int | None = None
    total: int | None = None
    first_step: int = 0
    first_step_time: float | None = None
    last_time: float = 0.0
    figures: dict[str, JsonValue] = field(default_factory=dict)
    """Fields of the latest progress: loss, tokens_per_second, mfu, memory_bytes, learning_rate, message."""
    metrics: dict[str, JsonValue] = field(default_factory=dict)
    artifact: str | None = None
    error: str | None = None

    def apply(self, event: Event) -> None:
        """Take one event of this stage into account."""
        self.last_time = event.time
        match event.kind:
            case "stage_progress":
                self._progress(event)
            case "stage_metrics":
                self.metrics.update(_mapping(event.fields.get("metrics")))
            case "stage_finished" | "stage_skipped":
                self.status = "finished" if event.kind == "stage_finished" else "skipped"
                self.ended = event.time
                self.artifact = _text(event.fields.get("artifact"))
                self.metrics.update(_mapping(event.fields.get("metrics")))
            case "stage_failed":
                self.status, self.ended = "failed", event.time
                self.error = _text(event.fields.get("error"))

    def seconds_left(self) -> float | None:
        """From the pace since the first progress; None until there is one, and at the end."""
        if self.step is None or self.total is None or self.first_step_time is None or self.step >= self.total:
            return None
        done, elapsed = self.step - self.first_step, self.last_time - self.first_step_time
        return elapsed / done * (self.total - self.step) if done > 0 and elapsed > 0 else None

    def _told_seconds_left(self) -> float | None:
        told = self.figures.get("seconds_left")
        return float(told) if isinstance(told, int | float) else None

    def _data_pace(self) -> Iterator[str]:
        for name, unit in (("rows_per_second", "rows/s"), ("mb_per_second", "MB/s")):
            value = self.figures.get(name)
            if isinstance(value, int | float):
                yield f"{words.rate(value) if unit == 'rows/s' else f'{value:.1f}'} {unit}"

    def progress_line(self) -> str:
        """``step 20/200  loss 5.12  3.2k tok/s  MFU 31%  1.2 GiB  12 s left``; parts that are unknown are left out."""
        loss, pace = self.figures.get("loss"), self.figures.get("tokens_per_second")
        left = self.seconds_left() or self._told_seconds_left()
        mfu, memory = self.figures.get("mfu"), self.figures.get("memory_bytes")
        parts = [
            self._steps(),
            f"loss {words.number(loss)}" if loss is not None else None,
            f"{words.rate(pace)} tok/s" if isinstance(pace, int | float) else None,
            *self._data_pace(),
            f"MFU {mfu:.0%}" if isinstance(mfu, int | float) else None,
            words.size(memory) if isinstance(memory, int) else None,
            f"{words.duration(left)} left" if left is not None else None,
            _text(self.figures.get("message")),
        ]
        return "  ".join(part for part in parts if part)

    def end_line(self) -> str:
        """``12 s  eval_loss 3.2  train-0123456789abcdef``, the reason of the skip, or the error's first line."""
        if self.status == "failed":
            return (self.error or "failed").splitlines()[0]
        seconds = None if self.status == "skipped" or self.ended is None else words.duration(self.ended - self.started)
        parts = ["already published" if self.status == "skipped" else seconds, words.metrics_line(self.metrics)]
        return "  ".join(part for part in [*parts, self.artifact] if part)

    def _progress(self, event: Event) -> None:
        step, total = event.fields.get("step"), event.fields.get("total")
        if isinstance(step, int):
            if self.first_step_time is None or (self.step is not None and step < self.step) or total != self.total:
                self.first_step, self.first_step_time = step, event.time
            self.step = step
        self.total = total if isinstance(total, int) else None
        self.figures = {name: value for name, value in event.fields.items() if name not in {"step", "total"}}

    def _steps(self) -> str | None:
        if self.step is None or (self.total is None and self.step == 0):
            return None
        return f"{self.step}/{self.total}" if self.total is not None else str(self.step)


class RunView:
    """All stages of a run, in the order in which they began."""

    def __init__(self) -> None:
        self.stages: dict[str, StageView] = {}

    def apply(self, event: Event) -> StageView | None:
        """The stage that the event is about, after it; None for events of the whole run."""
        if event.stage is None:
            return None
        stage = self.stages.get(event.stage)
        if stage is None or (event.kind == "stage_started" and stage.status != "running"):
            stage = self.stages[event.stage] = StageView(event.stage, "running", started=event.time)
        stage.apply(event)
        return stage


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _text(value: JsonValue) -> str | None:
    return None if value is None else str(value)
