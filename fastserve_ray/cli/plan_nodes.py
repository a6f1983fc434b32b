"""``fastserve plan --address``: the plan's bundles on the nodes of a real cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue
    from rich.console import Console

    from fastserve_ray.plan.memory import StageMemory
    from fastserve_ray.plan.resources import Present
    from fastserve_ray.plan.stages import Plan
    from fastserve_ray.remote.nodes import Node, Shortage


@dataclass(frozen=True)
class Placement:
    """What a cluster has, and what lacks."""

    url: str
    nodes: Sequence[Node]
    shortages: Sequence[Shortage]

    @property
    def present(self) -> Present:
        """CPUs and GPUs of all nodes."""
        from fastserve_ray.plan.resources import Present

        return Present(sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes))

    def as_json(self) -> JsonValue:
        return {
            "address": self.url,
            "nodes": [
                {
                    "ip": node.ip,
                    "is_head": node.is_head,
                    "cpus": node.cpus,
                    "gpus": node.gpus,
                    "memory_bytes": node.memory,
                }
                for node in self.nodes
            ],
            "lacks": [
                {"stage": each.stage, "bundles": each.asked.count, "places": each.places} for each in self.shortages
            ],
        }

    def show(self, output: Console) -> None:
        output.print(f"nodes of {self.url}:")
        for node in self.nodes:
            output.print(f"  {node}")
        for each in self.shortages:
            output.print(f"{each}; `fastserve submit` would refuse", style="red")
        if self.nodes and not self.shortages:
            output.print("every stage has room on them while nothing else runs there", style="green")


def placement_at(address: str, plan: Plan, memory: Sequence[StageMemory]) -> Placement:
    """Ask the cluster at ``address`` for its nodes.

    Raises:
        FastServeError: it cannot be asked.
    """
    from fastserve_ray.remote.dashboard import Dashboard
    from fastserve_ray.remote.nodes import nodes_of, shortages

    dashboard = Dashboard.at(address)
    nodes = nodes_of(dashboard)
    return Placement(dashboard.url, nodes, list(shortages(plan.stages, memory, nodes)))
