"""The thread that reads a run's log, and the renderer for terminals."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

from rich.console import Console

from fastserve_ray.events.event import Event
from fastserve_ray.events.log import EventReader, EventWriter
from fastserve_ray.run.progress import ProgressThread, renderer_for
from fastserve_ray.run.render_live import LiveRenderer
from fastserve_ray.run.render_plain import PlainRenderer

if TYPE_CHECKING:
    from pathlib import Path


class Collector:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.is_closed = False

    def show(self, events: list[Event]) -> None:
        self.kinds += [event.kind for event in events]

    def close(self) -> None:
        self.is_closed = True


def test_events_arrive_while_the_run_goes_on_and_the_last_ones_at_its_end(tmp_path: Path) -> None:
    collector = Collector()
    writer = EventWriter(str(tmp_path), "run", "driver", flush_seconds=60)
    with ProgressThread(EventReader(str(tmp_path), "run"), collector, poll_seconds=0.01):
        writer.emit("run_started")
        deadline = time.monotonic() + 10
        while not collector.kinds and time.monotonic() < deadline:
            time.sleep(0.01)
        assert collector.kinds == ["run_started"]
        writer.emit("run_finished")
        writer.close()
    assert collector.kinds == ["run_started", "run_finished"]
    assert collector.is_closed


def test_pipes_get_plain_lines_and_terminals_live_ones() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(renderer_for(io.StringIO()), PlainRenderer)
    assert isinstance(renderer_for(Terminal()), LiveRenderer)


def test_a_terminal_shows_a_line_for_each_stage_and_keeps_finished_ones() -> None:
    stream = io.StringIO()
    renderer = LiveRenderer(Console(file=stream, force_terminal=True, width=100, color_system=None))
    renderer.show([Event(0.0, "run_started", None, "driver", {"run_id": "tiny-1"})])
    renderer.show([Event(0.0, "stage_skipped", "data", "driver", {"artifact": "data-1", "metrics": {}})])
    renderer.show([Event(0.0, "stage_started", "train", "driver", {})])
    renderer.show([Event(1.0, "stage_progress", "train", "rank0", {"step": 5, "total": 10, "loss": 4.5})])
    time.sleep(0.3)
    assert "5/10  loss 4.5" in stream.getvalue()
    renderer.show([Event(9.0, "stage_finished", "train", "driver", {"metrics": {"eval_loss": 3.5}})])
    renderer.show([Event(9.0, "stage_failed", "verify", "driver", {"error": "worse by 0.3"})])
    renderer.close()
    last = stream.getvalue()[stream.getvalue().rindex("tiny-1") :]
    assert "✓ data" in last
    assert "9.0 s  eval_loss 3.5" in last
    assert "✗ verify" in last
    assert "worse by 0.3" in last


def test_the_sample_stands_below_the_finished_lines() -> None:
    stream = io.StringIO()
    renderer = LiveRenderer(Console(file=stream, force_terminal=True, width=100, color_system=None))
    renderer.show([Event(0.0, "stage_started", "serve", "driver", {})])
    renderer.show([Event(1.0, "stage_finished", "serve", "driver", {"metrics": {}})])
    renderer.show([Event(1.0, "served", "serve", "driver", {"url": "http://x", "model": "tiny", "links": {}})])
    renderer.close()
    assert stream.getvalue().rindex("✓") < stream.getvalue().rindex("Serving tiny at http://x")
