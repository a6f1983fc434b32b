"""A Ray cluster whose nodes are raylets on this machine, started with ``ray start`` as a user starts them.

They share this machine's network, or each has one of its own: a network namespace with one end of a veth pair, whose
other end is in a bridge. An address of this machine reaches nobody there, and only what was told the right address of
the right node works. Making networks needs root on Linux.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from ray.util import get_node_ip_address

from fastserve_ray.serve.ports import choose_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

START_S = 120.0
STORE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Machine:
    """A place for one raylet."""

    address: str
    network: str | None = None
    """The name of its network namespace; None: this machine's own network."""

    def command(self, *words: str) -> list[str]:
        """``words`` as a command that runs there."""
        return [*(("ip", "netns", "exec", self.network) if self.network else ()), *words]


@dataclass(frozen=True)
class Nodes:
    """The nodes of one cluster, by the number of their machine. The first is the head; it has no processors."""

    machines: Sequence[Machine]
    port: int
    folder: Path
    """Ray's temporary folder, by which the cluster's processes are known. Its path must be short, for the sockets."""

    @property
    def head_address(self) -> str:
        return f"{self.machines[0].address}:{self.port}"

    def start(self, index: int, environment: Mapping[str, str] | None = None, **options: str | float) -> list[int]:
        """Start a node with these options of ``ray start``, and wait until it belongs to the cluster.

        Returns:
            The process ids of its servers.
        """
        machine = self.machines[index]
        if index == 0:
            (self.folder / "ray_current_cluster").unlink(missing_ok=True)  # by it a second start would be refused
            joins = ["--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false"]
        else:
            joins = [f"--address={self.head_address}"]
        further = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        before = set(self.servers())
        done = subprocess.run(
            machine.command(
                str(Path(sys.executable).with_name("ray")),
                "start",
                *joins,
                *further,
                f"--node-ip-address={machine.address}",
                f"--object-store-memory={STORE_BYTES}",
                "--disable-usage-stats",
            ),
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [pid for pid in self.servers() if pid not in before]

    def servers(self) -> list[int]:
        """Process ids of all that names the cluster's folder or head in its command: raylets, agents, idle workers."""
        found = []
        for process in psutil.process_iter():
            try:
                if any(name in word for word in process.cmdline() for name in (str(self.folder), self.head_address)):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found


@contextmanager
def new_cluster(machines: Sequence[Machine]) -> Iterator[Nodes]:
    """No node is started yet; in the end every process of the cluster is ended."""
    nodes = Nodes(machines, choose_port("127.0.0.1", 0), Path(tempfile.mkdtemp(prefix="fsr-", dir="/tmp")))
    try:
        yield nodes
    finally:
        kill(nodes.servers())
        shutil.rmtree(nodes.folder, ignore_errors=True)


def kill(servers: Iterable[int]) -> None:
    """What the loss of a machine's power does: all its processes end at once."""
    everyone = [each for pid in servers for each in _family(pid)]
    for process in everyone:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _, left = psutil.wait_procs(everyone, timeout=30)
    assert not left, left


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def one_network(count: int) -> Iterator[list[Machine]]:
    """Machines that share the address of this one, as Ray has it."""
    yield [Machine(get_node_ip_address())] * count


def why_no_networks() -> str | None:
    """What keeps networks from being made here."""
    if os.geteuid() != 0:
        return "root is needed for network namespaces"
    if shutil.which("ip") is None:
        return "the command ip (Debian's iproute2) is needed for network namespaces"
    name = f"fsr{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        return f"no network namespace can be made: {error.stderr.strip()}"
    try:
        _ip("-n", name, "link", "add", "bridge", "type", "bridge")
    except subprocess.CalledProcessError as error:
        return f"no bridge can be made: {error.stderr.strip()}"
    finally:
        _ip("netns", "del", name)
    return None


@contextmanager
def own_networks(count: int) -> Iterator[list[Machine]]:
    """Machines with the addresses 10.77.0.1 and up, each in a network of its own behind one bridge."""
    prefix = f"fsr{os.getpid()}"
    hub = f"{prefix}-hub"
    machines = [Machine(f"10.77.0.{index + 1}", f"{prefix}-{index}") for index in range(count)]
    _ip("netns", "add", hub)
    try:
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for index, machine in enumerate(machines):
            _plug(machine, hub, f"port{index}")
        yield machines
    finally:
        for name in (hub, *(str(machine.network) for machine in machines)):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _plug(machine: Machine, hub: str, port: str) -> None:
    network = str(machine.network)
    _ip("netns", "add", network)
    _ip("link", "add", "eth0", "netns", network, "type", "veth", "peer", "name", port, "netns", hub)
    _ip("-n", hub, "link", "set", port, "master", "bridge", "up")
    _ip("-n", network, "link", "set", "lo", "up")
    _ip("-n", network, "addr", "add", f"{machine.address}/24", "dev", "eth0")
    _ip("-n", network, "link", "set", "eth0", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
