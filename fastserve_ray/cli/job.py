"""``fastserve job``: status, logs and stop of what ``fastserve submit`` has started, and of any other job."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import TYPE_CHECKING

import click

from fastserve_ray.cli.common import INTERRUPTED, console, json_option, print_json
from fastserve_ray.cli.submit import address_option, follow, show_failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.remote.dashboard import Dashboard
    from fastserve_ray.remote.jobs import Job, Jobs

_STYLES = {"SUCCEEDED": "green", "FAILED": "red", "RUNNING": "bold"}


@click.group("job")
def command() -> None:
    """Jobs of a Ray cluster: status, logs, stop."""


@command.command("status")
@click.argument("job", required=False)
@address_option
@json_option
def status(job: str | None, address: str | None, as_json: bool) -> None:
    """Show JOB, or all jobs that were submitted."""
    _, jobs = _open(address)
    found = jobs.list() if job is None else [jobs.find(job)]
    if as_json:
        rows = [dataclasses.asdict(item) for item in found]
        print_json(rows[0] if job is not None else [*rows])
    else:
        _print(found)


@command.command("logs")
@click.argument("job")
@address_option
@click.option("--follow", "follows", is_flag=True, help="Go on until the job ends; Ctrl-C leaves it running.")
def logs(job: str, address: str | None, follows: bool) -> int:
    """Print what JOB has written. With --follow the exit code is the job's."""
    dashboard, jobs = _open(address)
    if not follows:
        click.echo(jobs.logs(job), nl=False)
        return 0
    ended = follow(jobs, job, dashboard)
    if ended is None:
        return INTERRUPTED
    if ended.status != "SUCCEEDED":
        show_failure(ended)
    return ended.exit_code


@command.command("stop")
@click.argument("job")
@address_option
@click.option("--wait/--no-wait", default=True, help="Wait until it has ended.")
def stop(job: str, address: str | None, wait: bool) -> None:
    """Tell JOB to stop, as Ctrl-C would: checkpoints stay, and the same run goes on from them."""
    from fastserve_ray.remote.jobs import END_TIMEOUT_S, STOP_SECONDS

    _, jobs = _open(address)
    if not jobs.stop(job):
        click.echo(f"job {job} has ended already: {jobs.find(job).status}")
        return
    ended = jobs.wait(job, STOP_SECONDS + END_TIMEOUT_S) if wait else jobs.find(job)
    click.echo(f"job {job}: {ended.status if wait else 'told to stop'}")


def _open(address: str | None) -> tuple[Dashboard, Jobs]:
    from fastserve_ray.remote.dashboard import Dashboard
    from fastserve_ray.remote.jobs import Jobs

    dashboard = Dashboard.at(address)
    return dashboard, Jobs(dashboard)


def _print(jobs: Sequence[Job]) -> None:
    from rich import box
    from rich.table import Table

    from fastserve_ray.run.words import duration

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("job", "status", "started", "took", "code", "command"):
        table.add_column(heading, no_wrap=heading in ("job", "status"))
    for job in jobs:
        started = "" if job.started is None else f"{datetime.fromtimestamp(job.started).astimezone():%Y-%m-%d %H:%M:%S}"
        took = duration(job.ended - job.started) if job.started is not None and job.ended is not None else ""
        code = "" if job.code is None else str(job.code)
        table.add_row(job.id, job.status, started, took, code, job.command, style=_STYLES.get(job.status, ""))
    console().print(table)
