"""``fastserve submit``: a run as a job of a Ray cluster elsewhere."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from typing import TYPE_CHECKING

import click

from fastserve_ray.cli.common import (
    INTERRUPTED,
    check_files,
    json_option,
    print_json,
    read_spec,
    set_option,
    spec_argument,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fastserve_ray.remote.dashboard import Dashboard
    from fastserve_ray.remote.jobs import Job, Jobs
    from fastserve_ray.remote.nodes import Node
    from fastserve_ray.spec.run import RunSpec

PROGRAM = ("python", "-m", "fastserve_ray.cli.main")
"""Of the cluster's own environment; the command ``fastserve`` may be that of another one."""
NO_PYTHON = 127

address_option = click.option(
    "--address",
    metavar="URL",
    help="The cluster's dashboard, such as http://head:8265; auto: of the Ray on this machine.  "
    "[default: the file's cluster.address, else RAY_API_SERVER_ADDRESS]",
)
"""``address: str | None``."""


@click.command("submit")
@spec_argument
@address_option
@set_option
@click.option("--until", metavar="STAGE", help="The last stage to run, for example train.")
@click.option("--wait/--no-wait", default=True, help="Follow the job's log, or return once it is submitted.")
@click.option("--shared-paths", is_flag=True, help="Every node sees the paths of this machine, as with NFS.")
@json_option
def command(
    *,
    spec_file: Path,
    address: str | None,
    sets: tuple[str, ...],
    until: str | None,
    wait: bool,
    shared_paths: bool,
    as_json: bool,
) -> int:
    """Check FILE, send it with the local files that it names, and run it as a job of a cluster.

    The job does what ``fastserve run`` does there. The exit code is the job's; Ctrl-C leaves the job running.
    """
    spec = read_spec(spec_file, sets)
    return submit(spec, spec_file, sets, address, until=until, wait=wait, shared_paths=shared_paths, as_json=as_json)


def submit(
    spec: RunSpec,
    spec_file: Path,
    sets: Sequence[str],
    address: str | None = None,
    *,
    until: str | None = None,
    wait: bool = True,
    shared_paths: bool = False,
    as_json: bool = False,
) -> int:
    """Submit a run; returns the exit code.

    Raises:
        SpecError: the file is wrong, or names what the cluster cannot see; nothing was sent.
        PlacementError: the nodes cannot hold what it asks for; nothing was sent.
        FastServeError: the cluster cannot be reached, or refuses.
    """
    check_files(spec)
    from fastserve_ray.remote.dashboard import Dashboard
    from fastserve_ray.remote.jobs import Jobs
    from fastserve_ray.remote.nodes import are_here, nodes_of
    from fastserve_ray.remote.travel import pack_list

    dashboard = Dashboard.at(address, spec.cluster.address if spec.cluster.is_submitted_to else None)
    nodes = nodes_of(dashboard)
    is_here = are_here(nodes)
    notes = [*_check_plan(spec, nodes, until), *_notes(spec, spec_file, is_here=is_here)]
    luggage = pack_list(spec_file, spec, sees_files=is_here or shared_paths)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    jobs = Jobs(dashboard)
    flags = [flag for text in (*sets, *luggage.sets) for flag in ("--set", text)]
    flags += [] if until is None else ["--until", until]
    line = shlex.join([*PROGRAM, "run", str(spec_file.resolve().relative_to(luggage.folder)), *flags])
    env = {name: value for name, value in spec.cluster.runtime_env.as_ray().items() if name != "working_dir"}
    job = jobs.submit(line, luggage, env, metadata={"fastserve_run": spec.name})
    click.echo(f"job {job} is submitted to {dashboard.url} with {len(luggage.files)} files", err=as_json)
    if not wait:
        if as_json:
            print_json({"job": job, "address": dashboard.url})
        else:
            click.echo(hints(job, dashboard))
        return 0
    return _show_end(follow(jobs, job, dashboard, to_stderr=as_json), as_json=as_json)


def _check_plan(spec: RunSpec, nodes: Sequence[Node], until: str | None) -> list[str]:
    """What a run there would refuse is refused here; of a cluster that grows it is said."""
    from fastserve_ray.plan.memory import estimate_memory
    from fastserve_ray.plan.stages import plan_run
    from fastserve_ray.remote.nodes import check_nodes, shortages

    plan = plan_run(spec)
    stages = plan.stages
    if until is not None:
        stages = stages[: plan.names.index(plan.stage(until).name) + 1]
    found = list(shortages(stages, estimate_memory(plan.spec), nodes))
    if spec.cluster.grows:
        return [f"{shortage} as long as no more nodes come" for shortage in found]
    check_nodes(found, nodes)
    return []


def _notes(spec: RunSpec, spec_file: Path, *, is_here: bool) -> list[str]:
    from fastserve_ray.plan.inputs import local_path
    from fastserve_ray.remote.travel import unset_variables

    notes = []
    if is_here and local_path(spec.storage) is not None:
        notes.append(
            f"storage {spec.storage} is a folder of this machine: it works since every node runs here; "
            "nodes that join elsewhere would not see it"
        )
    if names := unset_variables(spec_file.read_text(encoding="utf-8"), _given(spec)):
        notes.append(f"the file reads {', '.join(names)}: the cluster's environment must have them too")
    return notes


def _given(spec: RunSpec) -> list[str]:
    """Environment variables that the file gives to the cluster's processes."""
    return [*spec.cluster.runtime_env.env_vars, *spec.cluster.secrets]


def follow(jobs: Jobs, job: str, dashboard: Dashboard, *, to_stderr: bool = False) -> Job | None:
    """Print the job's log until it ends; None after Ctrl-C, which leaves it running."""
    from fastserve_ray.run.signals import terminate_as_interrupt

    try:
        with terminate_as_interrupt():
            return jobs.follow(job, lambda text: click.echo(text, nl=False, err=to_stderr))
    except KeyboardInterrupt:
        click.echo(f"\nno longer followed; the job goes on\n{hints(job, dashboard)}", err=True)
        return None


def _show_end(job: Job | None, *, as_json: bool) -> int:
    if job is None:
        return INTERRUPTED
    if as_json:
        print_json({**dataclasses.asdict(job), "exit_code": job.exit_code})
    elif job.status != "SUCCEEDED":
        show_failure(job)
    sys.stdout.flush()
    return job.exit_code


def show_failure(job: Job) -> None:
    """On standard error, what the cluster says of a job that did not succeed."""
    click.echo(f"job {job.id}: {job.status}" + (f": {job.message}" if job.message else ""), err=True)
    if job.code == NO_PYTHON:
        click.echo(
            "  the head's PATH has no python: run `ray start` in the activated environment of FastServe-Ray", err=True
        )


def hints(job: str, dashboard: Dashboard) -> str:
    """How to go on with a job that is not followed."""
    at = f"--address {dashboard.url}"
    return "\n".join(
        f"  {words:<7} fastserve job {name} {job} {at}"
        for words, name in (("status:", "status"), ("follow:", "logs --follow"), ("stop:", "stop"))
    )
