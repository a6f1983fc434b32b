"""``fastserve render``: the file as other tools take it."""

from __future__ import annotations

from pathlib import Path

import click

from fastserve_ray.cli.common import read_spec, set_option, spec_argument
from fastserve_ray.errors import UsageError

TARGETS = ("ray-up", "raycluster", "rayservice", "rayjob", "serve-config", "helm-values")
SERVING = ("rayservice", "serve-config", "helm-values")
"""Targets that name a model."""


@click.command("render")
@click.argument("target", metavar="TARGET", type=click.Choice(TARGETS))
@spec_argument
@set_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here.  [default: standard output]")
@click.option(
    "--model",
    help="What is served: artifact:ID, run@stage, a hub id, or a folder that all nodes see.  "
    "[default: what the file's own run has made and verified]",
)
def command(target: str, spec_file: Path, sets: tuple[str, ...], output: Path | None, model: str | None) -> None:
    """Write FILE as TARGET: ray-up, raycluster, rayservice, rayjob, serve-config or helm-values.

    Nothing is started, and secrets stay references. ${env:NAME} in FILE is filled in now.
    """
    from fastserve_ray.cluster.table import render

    if model is not None and target not in SERVING:
        raise UsageError(
            f"{target} serves no model", value=f"--model {model}", allowed=f"--model with {', '.join(SERVING)}"
        )
    text = render(target, read_spec(spec_file, sets), model)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
