"""How fast data is prepared, as people see it."""

from __future__ import annotations

from typing import Any

from fastserve_ray.data.meter import Meter
from fastserve_ray.events.event import Event
from fastserve_ray.run.view import RunView


def test_reading_shows_rows_megabytes_and_the_time_left() -> None:
    now = [100.0]
    view = RunView()

    def progress(*, step: int, total: int | None, **fields: Any) -> None:
        event = Event(now[0], "stage_progress", "data", "worker", {"step": step, "total": total, **fields})
        view.apply(event)

    meter = Meter(progress, clock=lambda: now[0])
    meter.begin("reading")
    now[0] += 2.0
    meter.read(5000, 4_000_000, done=1_000, total=4_000)
    assert view.stages["data"].progress_line() == "5000  2.5k rows/s  2.0 MB/s  6.0 s left  reading"
    meter.begin("tokenizing")
    meter.add(200, 1_000_000)
    now[0] += 1.0
    meter(step=100, total=400, message="tokenizing")
    assert "100/400  200 rows/s  1.0 MB/s" in view.stages["data"].progress_line()
