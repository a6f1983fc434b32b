"""``fastserve validate``: every problem of a file, at once; nothing is started."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from fastserve_ray.cli.common import check_files, json_option, print_json, read_spec, set_option, spec_argument
from fastserve_ray.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path


@click.command("validate")
@spec_argument
@set_option
@json_option
def command(spec_file: Path, sets: tuple[str, ...], as_json: bool) -> int:
    """Check FILE and report every problem at once, with line and suggestion. Exit code 2 when there are any."""
    try:
        check_files(read_spec(spec_file, sets))
    except SpecError as error:
        if not as_json:
            raise
        print_json({"ok": False, "problems": [dataclasses.asdict(problem) for problem in error.problems]})
        return error.exit_code
    if as_json:
        print_json({"ok": True, "problems": []})
    else:
        click.echo(f"{spec_file}: ok")
    return 0
