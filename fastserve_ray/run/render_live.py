"""A run's events as live lines on a terminal: one line a stage, finished ones stay."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fastserve_ray.run import words
from fastserve_ray.run.render_plain import trial_line
from fastserve_ray.run.served import served_lines
from fastserve_ray.run.view import RunView, StageView

if TYPE_CHECKING:
    from fastserve_ray.events.event import Event

REFRESH_PER_SECOND = 8
BAR_WIDTH = 24
_MARKS = {"finished": ("✓", "green"), "skipped": ("✓", "dim"), "failed": ("✗", "bold red")}


class LiveRenderer:
    """Spinner, bar and figures for what runs; a mark, the time and the metrics for what ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._view = RunView()
        self._spinners: dict[str, Spinner] = {}
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=REFRESH_PER_SECOND, transient=False
        )
        self._is_live = False

    def show(self, events: list[Event]) -> None:
        """Take events into account; the screen follows by itself."""
        for event in events:
            self._view.apply(event)
            if event.stage is not None and not self._is_live:
                self._live.start()
                self._is_live = True
            self._print_aside(event)

    def close(self) -> None:
        """Draw the last state and leave it standing."""
        if self._is_live:
            self._live.stop()
            self._is_live = False

    def _print_aside(self, event: Event) -> None:
        match event.kind:
            case "run_started":
                self._console.print(Text(str(event.fields.get("run_id", "")), style="bold"))
            case "warning":
                self._console.print(Text(f"  {event.stage or 'run'}: {event.fields.get('message')}", style="yellow"))
            case "trial_finished":
                self._console.print(Text(f"  {event.stage}: {trial_line(event)}", style="dim"))
            case "served":
                self.close()
                for line in served_lines(event.fields):
                    self._console.print(Text(line), soft_wrap=True)

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for column in ("mark", "name", "bar"):
            table.add_column(column, no_wrap=True)
        table.add_column("text", ratio=1, no_wrap=True, overflow="ellipsis")
        for stage in list(self._view.stages.values()):
            table.add_row(*self._row(stage))
        return Group(table)

    def _row(self, stage: StageView) -> tuple[RenderableType, ...]:
        name = Text(stage.name, style="bold")
        if stage.status == "running":
            elapsed = words.duration(max(0.0, time.time() - stage.started))
            return self._spinner(stage), name, _bar(stage), Text(f"{elapsed}  {stage.progress_line()}")
        mark, style = _MARKS[stage.status]
        return Text(mark, style=style), name, Text(""), Text(stage.end_line(), style=style if mark == "✗" else "")

    def _spinner(self, stage: StageView) -> Spinner:
        return self._spinners.setdefault(stage.name, Spinner("dots", style="cyan"))


def _bar(stage: StageView) -> RenderableType:
    if stage.step is None or not stage.total:
        return Text("")
    return ProgressBar(total=stage.total, completed=stage.step, width=BAR_WIDTH)
