"""``fastserve doctor``: is this machine fit, and what to mend."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastserve_ray.cli.common import console, json_option, print_json, read_spec, set_option

if TYPE_CHECKING:
    from fastserve_ray.cli.doctor_checks import Check

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command("doctor")
@click.argument("spec_file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@set_option
@json_option
def command(spec_file: Path | None, sets: tuple[str, ...], as_json: bool) -> int:
    """Check versions, memory, disk, storage and port; with FILE, the storage and port that it names.

    Exit code 1 when a check fails; a warning does not count.
    """
    from fastserve_ray.cli.doctor_checks import run_checks

    storage, host, port = _places(spec_file, sets)
    checks = run_checks(storage=storage, host=host, port=port)
    failed = any(check.level == "fail" for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [dataclasses.asdict(check) for check in checks]})
    else:
        _print(checks)
    return 1 if failed else 0


def _places(spec_file: Path | None, sets: tuple[str, ...]) -> tuple[str, str, int]:
    """Storage, host and port: the file's, else the defaults."""
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.serve import ServeSpec

    if spec_file is None:
        if sets:
            raise click.UsageError("--set needs a FILE to override")
        serve = ServeSpec()
        return str(RunSpec.model_fields["storage"].default), serve.host, serve.port
    spec = read_spec(spec_file, sets)
    serve = spec.serve or ServeSpec()
    return spec.storage, serve.host, serve.port


def _print(checks: list[Check]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("check", "", "found"):
        table.add_column(heading)
    for check in checks:
        found = Text(check.found)
        if check.fix is not None:
            found.append(f"\n{check.fix}", style="italic")
        table.add_row(check.name, Text(check.level, style=_STYLES[check.level]), found)
    console().print(table)
