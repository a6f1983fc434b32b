"""``fastserve``: one command a module, loaded when it is chosen, so that ``validate`` need not wait for ``serve``."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastserve_ray import __version__
from fastserve_ray.cli.common import INTERRUPTED, show_error
from fastserve_ray.errors import FastServeError
from fastserve_ray.lazy import LazyTable

if TYPE_CHECKING:
    from collections.abc import Sequence

SUMMARIES = {
    "validate": "Check a file and report every problem at once.",
    "plan": "Show stages, what is already published, memory and resources; start nothing.",
    "run": "Do all that a file says, up to the served model.",
    "submit": "Run a file as a job of a Ray cluster elsewhere.",
    "job": "Show, follow or stop jobs of a cluster.",
    "status": "Show the runs in a storage and how far they are.",
    "serve": "Serve a model, an artifact or a run's result.",
    "render": "Write a file as ray up, KubeRay, Ray Serve or Helm take it.",
    "predict": "Ask a model or a served endpoint.",
    "key": "Make an API key for a client of an endpoint.",
    "bench": "Send a load to a served model and measure what it does.",
    "dashboard": "Print a Grafana dashboard of an endpoint's metrics.",
    "schema": "Print the JSON Schema of the file, for editors.",
    "doctor": "Check this machine: versions, memory, disk, ports.",
}

COMMANDS = LazyTable("command", "fastserve COMMAND", {name: f"fastserve_ray.cli.{name}:command" for name in SUMMARIES})


class LazyGroup(click.Group):
    """Takes its commands from ``COMMANDS``; the overview is written from ``SUMMARIES`` without loading any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = COMMANDS.load(cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command when there is no such one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(COMMANDS)}."
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="fastserve")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """One YAML file takes a language model from data to a verified, autoscaled endpoint."""
    context.ensure_object(dict)["debug"] = debug


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit code: 0, the error class's own (2 for a wrong file or flag), or 130 after Ctrl-C.
    """
    options: dict[str, Any] = {}
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # for a user's own package.module:Class; Ray's workers have it too
    try:
        result = cli.main(args=arguments, prog_name="fastserve", standalone_mode=False, obj=options)
        return result if isinstance(result, int) else 0
    except FastServeError as error:
        if options.get("debug"):
            raise
        show_error(error)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
