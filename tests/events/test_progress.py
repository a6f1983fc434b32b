"""A few events a second, and never without the first, the last or a new message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.events.log import EventReader, EventWriter
from fastserve_ray.events.progress import EventProgress, silent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def steps_written(tmp_path: Path, calls: Sequence[tuple[float, int, str | None]]) -> list[object]:
    times = iter([time for time, _, _ in calls])
    with EventWriter(str(tmp_path), "run", "rank0") as writer:
        progress = EventProgress(writer, "train", min_interval=0.25, clock=lambda: next(times))
        for _, step, message in calls:
            progress(step=step, total=100, loss=1.0, learning_rate=None, message=message)
    return [event.fields["step"] for event in EventReader(str(tmp_path), "run").poll()]


def test_fast_steps_are_thinned_out(tmp_path: Path) -> None:
    calls = [(step * 0.1, step, None) for step in range(8)]
    assert steps_written(tmp_path, calls) == [0, 3, 6]


def test_the_last_step_is_always_written(tmp_path: Path) -> None:
    assert steps_written(tmp_path, [(0.0, 99, None), (0.01, 100, None)]) == [99, 100]


def test_a_new_message_is_always_written(tmp_path: Path) -> None:
    calls: list[tuple[float, int, str | None]] = [(0.0, 1, "reading"), (0.01, 2, "packing"), (0.02, 3, "packing")]
    assert steps_written(tmp_path, calls) == [1, 2]


def test_fields_without_a_value_are_left_out(tmp_path: Path) -> None:
    with EventWriter(str(tmp_path), "run", "rank0") as writer:
        EventProgress(writer, "train")(step=1, total=None, loss=0.5, tokens_per_second=None)
    (event,) = EventReader(str(tmp_path), "run").poll()
    assert event.stage == "train"
    assert event.fields == {"step": 1, "total": None, "loss": 0.5}


def test_silent_takes_everything() -> None:
    silent(step=1, total=2, message="x")
