"""The nodes of a cluster, and whether a plan's bundles have a place on them."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.errors import PlacementError
from fastserve_ray.plan.words import size_in_words
from fastserve_ray.spec.nodes import RESOURCE_GRAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fastserve_ray.plan.memory import StageMemory
    from fastserve_ray.plan.resources import Bundles
    from fastserve_ray.plan.stages import PlannedStage
    from fastserve_ray.remote.dashboard import Dashboard

LIMIT = 10_000
"""Nodes in one answer; Ray's own maximum."""


@dataclass(frozen=True)
class Node:
    """One that is alive."""

    ip: str
    is_head: bool
    cpus: float
    gpus: float
    memory: int | None
    """Bytes that Ray gives to tasks and actors; None where it does not say."""

    def __str__(self) -> str:
        memory = "" if self.memory is None else f", {size_in_words(self.memory)}"
        return f"{self.ip}{' (head)' if self.is_head else ''}: {self.cpus:g} CPU, {self.gpus:g} GPU{memory}"


@dataclass(frozen=True)
class Shortage:
    """A stage that the nodes cannot hold."""

    stage: str
    asked: Bundles
    memory: int | None
    """Bytes of a worker; None: not known, or on its GPU."""
    places: int
    """Bundles that have a place."""

    def __str__(self) -> str:
        memory = "" if not self.memory else f" with {size_in_words(self.memory)} each"
        return f"{self.stage} asks for {self.asked}{memory}: the nodes have room for {self.places}"


def nodes_of(dashboard: Dashboard) -> list[Node]:
    """The nodes that are alive, the head first.

    Raises:
        FastServeError: the cluster cannot be asked.
    """
    rows = dashboard.get("/api/v0/nodes", limit=LIMIT)["data"]["result"]["result"]
    nodes = [_node(row) for row in rows if row["state"] == "ALIVE"]
    return sorted(nodes, key=lambda node: (not node.is_head, node.ip))


def _node(row: Mapping[str, object]) -> Node:
    resources = row["resources_total"]
    assert isinstance(resources, dict), "as ray.util.state.common.NodeState says"
    memory = resources.get("memory")
    return Node(
        ip=str(row["node_ip"]),
        is_head=bool(row["is_head_node"]),
        cpus=float(resources.get("CPU", 0)),
        gpus=float(resources.get("GPU", 0)),
        memory=None if memory is None else int(memory),
    )


def shortages(
    stages: Iterable[PlannedStage], memory: Iterable[StageMemory], nodes: Sequence[Node]
) -> Iterator[Shortage]:
    """The stages of which some bundle has no place on any node.

    A worker on a CPU needs the memory that is estimated for it; one on a GPU has its own.
    """
    peaks = {item.stage: item.peak for item in memory}
    for stage in stages:
        bundles = stage.resources
        peak = None if bundles.gpus else peaks.get(stage.name)
        wanted = list(_sizes(bundles, peak or 0))
        places = count_places(wanted, nodes)
        if places < len(wanted):
            yield Shortage(stage.name, bundles, peak, places)


Size = tuple[float, float, int]
"""GPUs, CPUs and bytes."""


def _sizes(bundles: Bundles, memory: int) -> Iterator[Size]:
    """One for each bundle. The memory is that of the first ones; of others it is not known."""
    yield from [(bundles.gpus, bundles.cpus, memory)] * bundles.count
    for other in bundles.others:
        yield from _sizes(other, 0)


def count_places(wanted: Iterable[Size], nodes: Sequence[Node]) -> int:
    """How many bundles have a place while nothing else runs: the largest are placed first, each on the node that it
    leaves the least GPUs and CPUs of. For bundles of one size that is the most there can be."""
    free = [[node.gpus, node.cpus, float("inf") if node.memory is None else node.memory] for node in nodes]
    places = 0
    for size in sorted(wanted, reverse=True):
        fits = [
            room for room in free if all(there + RESOURCE_GRAIN >= each for there, each in zip(room, size, strict=True))
        ]
        if fits:
            chosen = min(fits)
            chosen[:] = [there - each for there, each in zip(chosen, size, strict=True)]
            places += 1
    return places


def check_nodes(found: Sequence[Shortage], nodes: Sequence[Node]) -> None:
    """Refuse what can never start.

    Raises:
        PlacementError: with every stage that is short, and what the nodes have.
    """
    if found:
        raise PlacementError(
            "the stages ask for more than the nodes of the cluster have",
            value="; ".join(map(str, found)),
            allowed="; ".join(map(str, nodes)) or "there is no node",
            hint="`fastserve plan FILE --address URL` shows it by stage",
        )


def are_here(nodes: Sequence[Node]) -> bool:
    """Whether every node is on this machine, so that it sees the files that are here."""
    import psutil

    own = {
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6)
    }
    return bool(nodes) and all(node.ip in own for node in nodes)
