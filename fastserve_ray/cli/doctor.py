"""``fastserve doctor``: is this machine fit, and what to mend."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastserve_ray.cli.common import console, json_option, print_json, read_spec, set_option

if TYPE_CHECKING:
    from fastserve_ray.cli.doctor_checks import Check, Places

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command("doctor")
@click.argument("spec_file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@set_option
@click.option(
    "--address",
    metavar="URL",
    help="Look at the cluster there too, and at each of its nodes: http://head:8265, or auto for this machine's Ray.",
)
@json_option
def command(spec_file: Path | None, sets: tuple[str, ...], address: str | None, as_json: bool) -> int:
    """Check versions, memory, object store, disk, storage and ports; with FILE, those that it names.

    With --address a short job asks every node of the cluster for its versions and its room, and with FILE whether the
    storage can be written there. Exit code 1 when a check fails; a warning does not count.
    """
    from fastserve_ray.cli.doctor_checks import run_checks

    checks = run_checks(_places(spec_file, sets))
    if address is not None:
        from fastserve_ray.cli.doctor_cluster import check_cluster

        checks += check_cluster(address, None if spec_file is None else _places(spec_file, sets).storage)
    failed = any(check.level == "fail" for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [dataclasses.asdict(check) for check in checks]})
    else:
        _print(checks)
    return 1 if failed else 0


def _places(spec_file: Path | None, sets: tuple[str, ...]) -> Places:
    """The file's, else the defaults."""
    from fastserve_ray.cli.doctor_checks import Places
    from fastserve_ray.spec.cluster import ClusterSpec
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.serve import ServeSpec

    if spec_file is None:
        if sets:
            raise click.UsageError("--set needs a FILE to override")
        storage, cluster, serve = str(RunSpec.model_fields["storage"].default), ClusterSpec(), ServeSpec()
    else:
        spec = read_spec(spec_file, sets)
        storage, cluster, serve = spec.storage, spec.cluster, spec.serve or ServeSpec()
    dashboard = cluster.address == "local" and cluster.include_dashboard
    return Places(storage, serve.host, serve.port, cluster.object_store_memory_mb, has_dashboard=dashboard)


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
