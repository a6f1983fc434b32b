"""What the commands share: the file argument, ``--set``, ``--json``, and how an error is shown."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastserve_ray.errors import FastServeError, ModelError, Problem, SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue
    from rich.console import Console
    from rich.text import Text

    from fastserve_ray.spec.run import RunSpec

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""

spec_argument = click.argument("spec_file", metavar="FILE", type=click.Path(path_type=Path))
"""The YAML file, as ``spec_file: Path``. That it exists is checked by the loader."""

set_option = click.option(
    "--set",
    "sets",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of the file, for example train.learning_rate=1e-4. May be repeated.",
)
"""``sets: tuple[str, ...]``."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
"""``as_json: bool``."""


def read_spec(spec_file: Path, sets: Sequence[str]) -> RunSpec:
    """The file with its overrides.

    Raises:
        SpecError: with every problem.
    """
    from fastserve_ray.spec.load import load_spec

    return load_spec(spec_file, sets)


def check_keys(spec: RunSpec) -> None:
    """Read the file of API keys, if there is one, so that a mistake in it shows before anything starts. What is one of
    ``cluster.secrets`` need not be here.

    Raises:
        SpecError: with every problem of that file.
    """
    auth = None if spec.serve is None else spec.serve.auth
    if auth is None or (auth.keys_env in spec.cluster.secrets and auth.keys_env not in os.environ):
        return
    from fastserve_ray.spec.keys import load_keys

    load_keys(auth)


def check_files(spec: RunSpec) -> None:
    """Read the short files that a spec names: API keys, and a chat template.

    Raises:
        SpecError: with every problem of one of them.
    """
    from fastserve_ray.spec.template import read_template

    check_keys(spec)
    if spec.model.chat_template is not None:
        try:
            read_template(spec.model.chat_template)
        except ModelError as error:
            raise SpecError([Problem(str(error.key), error.what, error.value, allowed=error.allowed)]) from error


def print_json(value: JsonValue) -> None:
    """Indented JSON on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def console() -> Console:
    """Standard output through rich; 120 columns where there is no terminal, so that tables stay whole in logs."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def cause_of(error: FastServeError) -> FastServeError:
    """The error as it was raised, without what Ray wrapped around it in a worker."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, FastServeError) else error


def show_error(error: FastServeError) -> None:
    """Print an error on standard error: in colour on a terminal, else as plain lines."""
    error = cause_of(error)
    if not sys.stderr.isatty():
        click.echo(f"error: {error}", err=True)
        return
    from rich.console import Console

    errors = Console(stderr=True, highlight=False)
    for line in _styled(error):
        errors.print(line, soft_wrap=True)


def _styled(error: FastServeError) -> list[Text]:
    from rich.text import Text

    head = Text.assemble(("error: ", "bold red"), (error.what, "bold"))
    if isinstance(error, SpecError):
        return [head, *(line for problem in error.problems for line in _styled_problem(problem))]
    details = [("got", error.value), ("allowed", error.allowed), ("change", error.key), ("hint", error.hint)]
    return [head, *(Text.assemble((f"  {name}: ", "cyan"), text) for name, text in details if text is not None)]


def _styled_problem(problem: Problem) -> list[Text]:
    from rich.text import Text

    where = ":".join(str(part) for part in (problem.file, problem.line, problem.column) if part is not None)
    lines = [Text.assemble((where, "dim"), " " if where else "", (problem.key, "bold yellow"))]
    value = f" (got {problem.value})" if problem.value is not None else ""
    lines.append(Text(f"    {problem.message}{value}"))
    if problem.nearest is not None:
        lines.append(Text.assemble("    did you mean ", (problem.nearest, "bold green"), "?"))
    if problem.allowed is not None:
        lines.append(Text(f"    allowed: {problem.allowed}", "dim"))
    return lines
