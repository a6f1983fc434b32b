"""``fastserve schema``: the file's JSON Schema."""

from __future__ import annotations

import click

from fastserve_ray.cli.common import print_json


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of the file.

    Save it and begin a YAML file with "# yaml-language-server: $schema=fastserve.schema.json": editors then complete
    keys and mark mistakes.
    """
    from fastserve_ray.spec.schema import json_schema

    print_json(json_schema())
