"""The checks of ``fastserve doctor --address``: a cluster as a client finds it, and each of its nodes."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray import __version__
from fastserve_ray.cli.doctor_checks import GIB, TESTED, Check
from fastserve_ray.errors import FastServeError
from fastserve_ray.plan.inputs import local_path
from fastserve_ray.remote.dashboard import Dashboard
from fastserve_ray.remote.nodes import are_here, nodes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fastserve_ray.remote.nodes import Node

OURS = "fastserve-ray"
REPORT_TIMEOUT_S = 300.0
"""A node's first process may have a runtime environment to install."""
LOW_SHARED_MEMORY = 1 * GIB
LOW_DISK = 5 * GIB


def check_cluster(address: str, storage: str | None) -> Iterator[Check]:
    """Reached, of the same versions, with nodes, and what each node has.

    Args:
        storage: of a file, to be written on every node; None: that is not tried.
    """
    try:
        dashboard = Dashboard.at(address)
        versions = dashboard.versions()
    except FastServeError as error:
        yield Check("cluster", "fail", f"{error.what} ({error.value or address})", error.hint or error.allowed)
        return
    token = "without a token" if dashboard.token is None else f"with the token of {dashboard.token.source}"
    yield Check("cluster", "ok", f"{dashboard.url} answers {token}")
    yield from check_skew(versions, {"ray": metadata.version("ray"), "python": _python()})
    nodes = nodes_of(dashboard)
    if not nodes:
        yield Check("nodes", "fail", "none is alive", "start one: ray start --address HEAD:6379")
        return
    yield Check("nodes", "ok", "; ".join(map(str, nodes)))
    place, refused = _place(storage, nodes)
    yield from refused
    try:
        reports = report_nodes(dashboard, place)
    except FastServeError as error:
        yield Check("node report", "fail", f"{error.what} ({error.value})", error.hint)
        return
    for report in reports:
        yield from check_node(report)


def check_skew(cluster: Mapping[str, str], client: Mapping[str, str]) -> Iterator[Check]:
    """The head against this machine; Ray itself lets no node join that differs from its head."""
    for name, key in (("ray", "rayVersion"), ("python", "pythonVersion")):
        there, here = cluster[key], client[name]
        is_same = there.split(".")[:2] == here.split(".")[:2]
        fix = None if is_same else f"a job runs with the cluster's {there}; make both the same to be sure"
        yield Check(f"{name} of the cluster", "ok" if is_same else "warn", f"{there} there, {here} here", fix)


def check_node(report: Mapping[str, Any]) -> Iterator[Check]:
    """What one node said."""
    name, versions = f"node {report['ip']}", report["versions"]
    if versions[OURS] is None:
        fix = "install it in the nodes' image or environment, or name it in cluster.runtime_env.pip"
        yield Check(name, "fail", f"{OURS} is not installed", fix)
    elif versions[OURS] != __version__:
        yield Check(
            name, "warn", f"{OURS} {versions[OURS]} there, {__version__} here", "install the same on both sides"
        )
    missing = [package for package in TESTED if versions[package] is None]
    others = [f"{package} {versions[package]}" for package in TESTED if not _is_tested(package, versions[package])]
    if missing:
        yield Check(name, "fail", f"not installed: {', '.join(missing)}", "pip install -c constraints.txt there")
    elif others:
        tested = ", ".join(f"{package} {TESTED[package]}" for package in TESTED)
        yield Check(name, "warn", ", ".join(others), f"tested with {tested}")
    if report["shared_memory"] < LOW_SHARED_MEMORY:
        found = f"{report['shared_memory'] / GIB:.1f} GiB of shared memory free"
        yield Check(name, "warn", found, "Docker: --shm-size=4g; Kubernetes: an emptyDir with medium: Memory")
    if report["disk"] < LOW_DISK:
        yield Check(
            name, "warn", f"{report['disk'] / GIB:.1f} GiB free in /tmp", "make room for Ray's objects and logs"
        )
    if report["storage"] not in (None, "ok"):
        yield Check(name, "fail", f"storage cannot be written: {report['storage']}", "storage that every node reaches")
    written = "; storage can be written" if report["storage"] == "ok" else ""
    yield Check(name, "ok", f"Python {report['python']}, {_with_versions(versions)}{written}")


def report_nodes(dashboard: Dashboard, storage: str | None) -> list[dict[str, Any]]:
    """Run the report as a job; one entry for each node.

    Raises:
        FastServeError: the job did not succeed; its log is the value.
    """
    from fastserve_ray.remote import node_report
    from fastserve_ray.remote.jobs import Jobs
    from fastserve_ray.remote.travel import Luggage

    jobs = Jobs(dashboard)
    with tempfile.TemporaryDirectory(prefix="fastserve-") as folder:
        script = Path(shutil.copy(str(node_report.__file__), folder))
        arguments = [json.dumps([OURS, *TESTED]), json.dumps(storage)]
        luggage = Luggage(Path(folder), (Path(script.name),), ())
        job = jobs.submit(shlex.join(["python", script.name, *arguments]), luggage)
    ended = jobs.wait(job, REPORT_TIMEOUT_S)
    lines = [line for line in jobs.logs(job).splitlines() if line.startswith(node_report.MARK)]
    if not lines:
        hint = f"fastserve job logs {job} --address {dashboard.url}"
        raise FastServeError(f"the job that looks at the nodes ended with {ended.status}", value=job, hint=hint)
    reports: list[dict[str, Any]] = json.loads(lines[0].removeprefix(node_report.MARK))
    return reports


def _place(storage: str | None, nodes: Sequence[Node]) -> tuple[str | None, list[Check]]:
    """Storage as the nodes are to write it."""
    path = None if storage is None else local_path(storage)
    if path is None:
        return storage, []
    if are_here(nodes):
        return str(Path(path).expanduser().absolute()), []
    fix = "set storage to a place that all nodes reach, such as s3://bucket/runs"
    return None, [Check("storage", "warn", f"{storage} is a folder of this machine; the nodes are elsewhere", fix)]


def _is_tested(package: str, version: str | None) -> bool:
    return version is None or version.split("+")[0].split(".")[:2] == TESTED[package].split(".")[:2]


def _with_versions(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items() if version is not None)


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))
