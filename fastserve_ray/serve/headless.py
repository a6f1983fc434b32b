"""Keeps actors off a head that offers no processors.

An actor that asks for none fits on such a head too, and would be lost with it. A head is made so for the very reason
that nothing is lost with it but what Ray itself keeps there; on Kubernetes it is small besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HEAD = "node:__internal_head__"
"""A resource that only the head has."""
_NODE_ID = "ray.io/node-id"
"""A label that every node has."""


def light_actor() -> dict[str, Any]:
    """Options of an actor without processors, on the Ray that this process is connected to, if any."""
    nodes = ray.nodes() if ray.is_initialized() else []
    return {"num_cpus": 0, **off_empty_head(nodes)}


def off_empty_head(nodes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The option that keeps an actor off a head without processors; ``nodes`` as ``ray.nodes`` has them."""
    for node in nodes:
        has = node["Resources"]
        if node["Alive"] and _HEAD in has and not has.get("CPU"):
            return {"label_selector": {_NODE_ID: f"!{node['NodeID']}"}}
    return {}
