"""``fastserve run``: all that a file says, up to the served model."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastserve_ray.cli.common import check_files, json_option, print_json, read_spec, set_option, spec_argument
from fastserve_ray.errors import FastServeError
from fastserve_ray.remote.inside import is_job

if TYPE_CHECKING:
    from fastserve_ray.run.walk import RunResult
    from fastserve_ray.spec.run import RunSpec


@click.command("run")
@spec_argument
@set_option
@click.option("--wait/--no-wait", default=True, help="Serve until Ctrl-C, or stop after one sample.")
@click.option("--until", metavar="STAGE", help="The last stage to run, for example train.")
@json_option
def command(spec_file: Path, sets: tuple[str, ...], wait: bool, until: str | None, as_json: bool) -> int:
    """Run FILE: finished stages are skipped, the rest is built, verified and served.

    Where cluster.address is that of a cluster's dashboard, it is submitted as a job, as ``fastserve submit`` does;
    --no-wait then returns once it is submitted.

    Exit codes: 0 done; 1 a stage failed; 2 the file is wrong or asks for more than there is; 130 stopped by Ctrl-C
    before the model was served.
    """
    spec = read_spec(spec_file, sets)
    check_files(spec)
    if spec.cluster.is_submitted_to and not is_job():
        from fastserve_ray.cli.submit import submit

        return submit(spec, spec_file, sets, until=until, wait=wait, as_json=as_json)
    spec = _in_its_job(spec)
    from fastserve_ray.run.driver import run
    from fastserve_ray.run.progress import renderer_for

    try:
        result = run(
            spec,
            spec_text=_text_with_sets(spec_file, sets),
            wait=wait,
            until=until,
            renderer=renderer_for(sys.stderr if as_json else sys.stdout),
        )
    except FastServeError as error:
        for note in getattr(error, "__notes__", ()):
            click.echo(note, err=True)
        raise
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        _show(result)
    return 0


def _in_its_job(spec: RunSpec) -> RunSpec:
    """``spec`` as it is, but in a Ray job with the Ray that runs the job."""
    from fastserve_ray.remote.inside import joined, notes
    from fastserve_ray.remote.travel import restore_times

    if not is_job():
        return spec
    for note in notes(spec):
        click.echo(f"note: {note}", err=True)
    restore_times(Path.cwd())
    return joined(spec)


def _show(result: RunResult) -> None:
    from fastserve_ray.run.words import duration

    done = "served and stopped" if result.served is not None else "done"
    click.echo(f"{done} in {duration(result.seconds)}; artifacts are in {result.storage}")


def _text_with_sets(spec_file: Path, sets: tuple[str, ...]) -> str:
    """The file as it is, with the overrides as comments above it."""
    return "".join(f"# --set {text}\n" for text in sets) + spec_file.read_text(encoding="utf-8")
