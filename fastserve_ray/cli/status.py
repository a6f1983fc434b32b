"""``fastserve status``: the runs in a storage and how far they are."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fastserve_ray.cli.common import json_option, print_json, read_spec, set_option
from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from fastserve_ray.run.status import RunStatus, StageStatus


@click.command("status")
@click.argument("spec_file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--storage", help="Where the runs are: a path or URI.  [default: the file's, else ./runs]")
@click.option("--last", default=5, show_default=True, type=click.IntRange(min=1), help="How many runs to show.")
@set_option
@json_option
def command(spec_file: Path | None, storage: str | None, last: int, sets: tuple[str, ...], as_json: bool) -> None:
    """Show the latest runs of FILE, or of a storage: stages, artifacts with their metrics, the last event."""
    from fastserve_ray.run.status import read_status
    from fastserve_ray.storage.filesystem import Storage

    name = None
    if spec_file is not None:
        spec = read_spec(spec_file, sets)
        name, storage = spec.name, storage or spec.storage
    elif sets:
        raise UsageError("--set changes a file, and none is given", key="FILE")
    opened = Storage.open(storage or "./runs")
    runs = read_status(opened, name=name, last=last)
    if as_json:
        print_json({"storage": opened.uri, "runs": [run.to_json() for run in runs]})
        return
    if not runs:
        click.echo(f"no runs in {opened.where()}")
    for run in runs:
        _print(run)


def _print(run: RunStatus) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from fastserve_ray.run import words

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, title=f"{run.run_id}: {run.state}", title_justify="left")
    for heading in ("stage", "state", "seconds", "artifact", "metrics"):
        justify: Literal["left", "right"] = "right" if heading == "seconds" else "left"
        table.add_column(heading, justify=justify, no_wrap=heading != "metrics")
    for stage in run.stages:
        seconds = "" if stage.seconds is None else f"{stage.seconds:.1f}"
        metrics = words.metrics_line(stage.metrics)
        table.add_row(stage.name, stage.state, seconds, stage.artifact or "", metrics, style=_style(stage))
    console.print(table)
    if run.last_event is not None:
        at = datetime.fromtimestamp(run.last_event_time or 0.0).astimezone()
        console.print(f"last event: {run.last_event} at {at:%Y-%m-%d %H:%M:%S}", style="dim")
    if run.error is not None:
        console.print(run.error, style="red")


def _style(stage: StageStatus) -> str:
    return {"published": "green", "failed": "red", "to do": "dim"}.get(stage.state, "")
