"""``fastserve key``: a new API key, and the entry for the file of keys."""

from __future__ import annotations

import click

from fastserve_ray.cli.common import json_option, print_json


@click.command("key")
@click.argument("name")
@json_option
def command(name: str, as_json: bool) -> None:
    """Make an API key for the client NAME.

    The key itself is shown once and stored nowhere. The entry with its hash goes into the file that
    serve.auth.keys_file names.
    """
    from fastserve_ray.spec.keys import hash_of, new_key, parse_keys

    key = new_key()
    entry = f"  - name: {name}\n    sha256: {hash_of(key)}"
    parse_keys(f"keys:\n{entry}\n", "NAME")
    if as_json:
        print_json({"key": key, "name": name, "sha256": hash_of(key)})
        return
    click.echo("Give this to the client; it is shown only now:", err=True)
    click.echo(key)
    click.echo(f"\nPut this under `keys:` in the file of keys:\n{entry}", err=True)
