"""``fastserve serve deploy``, ``status`` and ``rollback``: applications that a cluster keeps serving by itself."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastserve_ray.cli.common import check_files, console, json_option, print_json, read_spec, set_option, spec_argument
from fastserve_ray.cli.submit import address_option
from fastserve_ray.errors import ServeError
from fastserve_ray.serve.causes import FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.remote.applications import ApplicationState
    from fastserve_ray.remote.dashboard import Dashboard
    from fastserve_ray.remote.history import History, Version
    from fastserve_ray.spec.run import RunSpec

_STYLES = {"RUNNING": "green", **dict.fromkeys(FAILED, "red")}
wait_option = click.option(
    "--wait/--no-wait", default=True, help="Wait until it runs, or return once it is handed over."
)


@click.command("deploy")
@spec_argument
@address_option
@set_option
@click.option(
    "--model",
    help="What is served: artifact:ID, run@stage, a hub id or a folder.  [default: what the file's own run has made]",
)
@click.option("--shared-paths", is_flag=True, help="Every node sees the paths of this machine, as with NFS.")
@wait_option
def deploy(
    *, spec_file: Path, address: str | None, sets: tuple[str, ...], model: str | None, shared_paths: bool, wait: bool
) -> None:
    """Serve the model of FILE in a cluster, in place of the version that runs there.

    Other applications of the cluster stay as they are. Requests go to the old version until the new one is loaded, and
    if it does not load. Each version is kept in the file's storage, for ``fastserve serve rollback``.
    """
    from fastserve_ray.remote.versions import deploy_version

    spec = read_spec(spec_file, sets)
    check_files(spec)
    dashboard, history = _open(spec, address)
    config = _config(spec, spec_file, model, dashboard, shared_paths=shared_paths)
    version = deploy_version(dashboard, history, config)
    _finish(dashboard, history, version, spec_file, wait=wait)


@click.command("rollback")
@spec_argument
@address_option
@set_option
@click.option("--to", "number", type=int, help="The version to go back to.  [default: the last other one that has run]")
@wait_option
def rollback(spec_file: Path, address: str | None, sets: tuple[str, ...], number: int | None, wait: bool) -> None:
    """Serve an earlier version of FILE's application again; ``fastserve serve status FILE`` lists them."""
    from fastserve_ray.remote.applications import read_serve
    from fastserve_ray.remote.versions import deploy_version

    spec = read_spec(spec_file, sets)
    dashboard, history = _open(spec, address)
    current = read_serve(dashboard).applications.get(_name(spec))
    before = history.before(None if current is None else current.config, number)
    click.echo(f"back to version {before.number} of {_time(before)}")
    version = deploy_version(dashboard, history, before.config)
    _finish(dashboard, history, version, spec_file, wait=wait)


@click.command("status")
@click.argument("spec_file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@address_option
@set_option
@json_option
def status(spec_file: Path | None, address: str | None, sets: tuple[str, ...], as_json: bool) -> None:
    """Show the applications of a cluster; with FILE, its own one and the versions of it that were deployed."""
    from fastserve_ray.remote.applications import read_serve
    from fastserve_ray.remote.dashboard import Dashboard
    from fastserve_ray.remote.versions import settle

    versions: list[Version] = []
    current = None
    if spec_file is None:
        state = read_serve(Dashboard.at(address))
        found = list(state.applications.values())
    else:
        spec = read_spec(spec_file, sets)
        dashboard, history = _open(spec, address)
        state = read_serve(dashboard)
        current = state.applications.get(_name(spec))
        if current is not None:
            settle(history, current)
        found, versions = [current] if current is not None else [], history.versions()
    if as_json:
        print_json(
            {
                "url": state.url,
                "applications": [dataclasses.asdict(item) for item in found],
                "versions": [dataclasses.asdict(version) for version in versions],
            }
        )
        return
    _print(found, state.url)
    _print_versions(versions, current)


def _open(spec: RunSpec, address: str | None) -> tuple[Dashboard, History]:
    from fastserve_ray.remote.dashboard import Dashboard
    from fastserve_ray.remote.history import History
    from fastserve_ray.storage.filesystem import Storage

    dashboard = Dashboard.at(address, spec.cluster.address if spec.cluster.is_submitted_to else None)
    return dashboard, History(Storage.open(spec.storage), _name(spec))


def _name(spec: RunSpec) -> str:
    return (spec.serve.model_name if spec.serve is not None else None) or spec.name


def _config(
    spec: RunSpec, spec_file: Path, model: str | None, dashboard: Dashboard, *, shared_paths: bool
) -> dict[str, Any]:
    """The Serve configuration, with the very artifact that is the newest now, so that the version stays what it is."""
    from fastserve_ray.cluster.app import App
    from fastserve_ray.cluster.serve_config import render
    from fastserve_ray.remote.inside import joined
    from fastserve_ray.remote.nodes import are_here, nodes_of
    from fastserve_ray.remote.travel import served_paths
    from fastserve_ray.serve.result import model_at, model_of
    from fastserve_ray.spec.load import with_overrides

    found = model_of(spec, str(spec_file)) if model is None else model_at(model, spec.storage)
    sees_files = shared_paths or are_here(nodes_of(dashboard))
    paths, found = served_paths(spec, found, sees_files=sees_files)
    app = App(joined(with_overrides(spec, paths)), found)  # the nodes are there; none are made up
    (config,) = render(app)
    return config


def _finish(dashboard: Dashboard, history: History, version: Version, spec_file: Path, *, wait: bool) -> None:
    from fastserve_ray.remote.versions import finish_version

    name, number = version.application["name"], version.number
    flags = f"{spec_file} --address {dashboard.url}"
    click.echo(f"version {number} of {name} is handed to {dashboard.url}", err=True)
    if not wait:
        click.echo(f"see how far it is: fastserve serve status {flags}")
        return
    try:
        state = finish_version(dashboard, history, version, lambda words: click.echo(f"{words} ...", err=True))
    except ServeError as error:
        error.hint = f"{error.hint or ''}\n  to go back: fastserve serve rollback {flags}".lstrip()
        raise
    where = "" if state.url is None else f" at {state.url}{state.applications[name].route_prefix or ''}".rstrip("/")
    click.echo(f"version {number} of {name} is served{where}")


def _print(found: Sequence[ApplicationState], url: str | None) -> None:
    from rich import box
    from rich.table import Table

    if not found:
        click.echo("nothing is served")
        return
    table = Table(box=box.SIMPLE_HEAD, title=None if url is None else f"served at {url}", title_justify="left")
    for heading in ("application", "status", "path", "deployment", "replicas"):
        table.add_column(heading)
    for item in found:
        head = (item.name, item.status, item.route_prefix or "")
        for number, deployment in enumerate(item.deployments):
            states = ", ".join(f"{count} {state}" for state, count in sorted(deployment.replicas.items())) or "0"
            left = head if number == 0 else ("", "", "")
            table.add_row(*left, deployment.name, states, style=_STYLES.get(item.status, ""))
        if not item.deployments:
            table.add_row(*head, "", "", style=_STYLES.get(item.status, ""))
    console().print(table)
    for item in found:
        if item.status in FAILED:
            click.echo(f"{item.name}: {item.cause}")


def _print_versions(versions: Sequence[Version], current: ApplicationState | None) -> None:
    from rich import box
    from rich.table import Table

    if not versions:
        return
    table = Table(box=box.SIMPLE_HEAD, title="versions", title_justify="left")
    for heading in ("version", "deployed", "outcome", "model", ""):
        table.add_column(heading)
    config = None if current is None else current.config
    latest = max((version.number for version in versions if version.is_like(config)), default=None)
    for version in versions:
        model = str(version.application.get("args", {}).get("model", ""))
        mark = "in the cluster" if version.number == latest else ""
        table.add_row(str(version.number), _time(version), version.outcome, model, mark)
    console().print(table)


def _time(version: Version) -> str:
    return f"{datetime.fromtimestamp(version.time).astimezone():%Y-%m-%d %H:%M:%S}"
