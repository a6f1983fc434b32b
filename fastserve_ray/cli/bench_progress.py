"""Live progress of a benchmark on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from fastserve_ray.bench.run import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.bench.drive import Run
    from fastserve_ray.bench.records import Record

LINE_EACH_S = 5.0
"""Between two lines where there is no terminal."""
RECENT = 50
"""Requests whose times are shown."""


class _Words:
    """The state of a run in a few words."""

    def __init__(self) -> None:
        self._recent: deque[Record] = deque(maxlen=RECENT)
        self._num_failed = 0

    def of(self, run: Run, record: Record) -> str:
        if record.failure is None:
            self._recent.append(record)
        else:
            self._num_failed += 1
        words = f"{len(run.records)}/{run.num_planned} done, {run.num_open} in flight, {self._num_failed} failed"
        times = [(name, [getattr(one, name) for one in self._recent]) for name in ("ttft", "tpot")]
        for name, found in times:
            known = sorted(value for value in found if value is not None)
            if known:
                words += f", {name} {1000 * known[len(known) // 2]:.0f} ms"
        return words


@contextmanager
def watching() -> Iterator[Watch]:
    """What a run tells, shown while it goes on."""
    if sys.stderr.isatty():
        with _bar() as watch:
            yield watch
    else:
        yield _lines()


def _lines() -> Watch:
    words = _Words()
    last = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{text} ...", err=True)

    def on_record(run: Run, record: Record) -> None:
        nonlocal last
        text = words.of(run, record)
        if time.monotonic() - last >= LINE_EACH_S or len(run.records) == run.num_planned:
            last = time.monotonic()
            click.echo(text, err=True)

    return Watch(say, lambda count: say(f"sending {count} requests"), on_record)


@contextmanager
def _bar() -> Iterator[Watch]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    words = _Words()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as progress:
        task = progress.add_task("asking the server", total=None)

        def on_record(run: Run, record: Record) -> None:
            progress.update(task, completed=len(run.records), description=words.of(run, record))

        yield Watch(
            lambda text: progress.update(task, description=text),
            lambda count: progress.update(task, total=count, description=f"sending {count} requests"),
            on_record,
        )
