"""Whether weights have room in the object store of a node."""

from __future__ import annotations

import ray

from fastserve_ray.errors import WeightStoreError

USABLE = 0.9
"""Of a node's object store; the rest is for what else passes through it. Objects beyond it would be spilled to disk."""
MIB = 2**20


def check_room(num_bytes: int, what: str, node_id: str | None = None) -> None:
    """Refuse weights for which a node's object store is too small.

    Args:
        num_bytes: that lie in the store at the same time.
        what: the beginning of the message, for example "the model's weights".
        node_id: hex; default: this process's node.

    Raises:
        WeightStoreError: they do not fit.
    """
    capacity = store_capacity(node_id)
    if capacity is None or num_bytes <= USABLE * capacity:
        return
    raise WeightStoreError(
        f"{what} do not fit in the object store of their node",
        value=f"{num_bytes / MIB:.0f} MiB",
        allowed=f"at most {USABLE * capacity / MIB:.0f} MiB, {USABLE:.0%} of the store's {capacity / MIB:.0f} MiB",
        key="cluster.object_store_memory_mb",
        hint="make the store larger, or set serve.weights.store: off, where each replica loads its own copy",
    )


def store_capacity(node_id: str | None = None) -> int | None:
    """Bytes of the object store of a node, None when the node is gone."""
    wanted = node_id or ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == wanted and node["Alive"]:
            return int(node["Resources"].get("object_store_memory", 0))
    return None
