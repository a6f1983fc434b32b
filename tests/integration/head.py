"""A Ray of its own, started as users do it: ``ray start --head``, with a dashboard and a token."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from fastserve_ray.errors import FastServeError
from fastserve_ray.remote.dashboard import Dashboard
from fastserve_ray.remote.nodes import nodes_of
from fastserve_ray.remote.token import Token
from tests.cli.commands import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "5" * 64
START_TIMEOUT_S = 120.0
RUN = (sys.executable, "-m", "fastserve_ray.cli.main")


@dataclass(frozen=True)
class Head:
    """One that runs."""

    url: str
    """Of its dashboard."""
    gcs: str
    environment: dict[str, str] = field(repr=False)
    """Of a client that has its token."""

    def fastserve(self, *arguments: str, folder: Path, **variables: str) -> Outcome:
        """Run a command in ``folder`` as a client."""
        return self.run(*RUN, *arguments, folder=folder, **variables)

    def run(self, *command: str, folder: Path, **variables: str) -> Outcome:
        environment = {**self.environment, **variables}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, folder: Path) -> subprocess.Popen[str]:
        """A command that goes on."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*RUN, *arguments], text=True, cwd=folder, env=self.environment, **pipes)  # type: ignore[call-overload,no-any-return]


@contextmanager
def ray_head(num_cpus: int = 8) -> Iterator[Head]:
    """As ``ray start --head`` makes it where the user has a token: it asks every client for it."""
    folder = Path(tempfile.mkdtemp(prefix="fsr-", dir="/tmp"))  # short: Ray's socket paths have a length limit
    (folder / "token").write_text(TOKEN)
    ports = free_ports(5)
    environment = _environment(folder)
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port")
    command += [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    command += [f"--num-cpus={num_cpus}", f"--object-store-memory={200 * 2**20}", f"--temp-dir={folder}"]
    log = (folder / "start.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    url = f"http://127.0.0.1:{ports[1]}"
    try:
        _wait(process, url, folder / "start.log")
        yield Head(url, f"127.0.0.1:{ports[0]}", environment)
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()  # an orderly end takes half a minute
        process.wait(60)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all different."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _environment(folder: Path) -> dict[str, str]:
    """No word of Ray's but where the token is: an embedded Ray of another test leaves some behind in this process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "RAY_ADDRESS"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    packages = os.environ.get("PYTHONPATH", str(Path.cwd()))
    return {**kept, "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "PATH": path, "PYTHONPATH": packages}


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until its node is there: the dashboard answers a moment before."""
    dashboard = Dashboard(url, Token(TOKEN, "a test"))
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if nodes_of(dashboard):
                return
        except FastServeError:
            time.sleep(0.2)
