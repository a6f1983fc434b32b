"""The program of `test_nodes`: a cluster of several raylets on this machine. Writes what it found as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fastserve_ray.weights.store import WeightStore
from tests.waiting import wait_for
from tests.weights.models import Layers

STORE_BYTES = 100 * 2**20
LAYERS = Layers(num_pieces=4, numbers_each=1_000_000)
TIMEOUT_S = 120.0


class Reader:
    """Reads and keeps what it read, as a replica does."""

    def read(self, store: WeightStore) -> int:
        self.pieces = store.client(timeout_s=TIMEOUT_S).read_all()
        LAYERS.check(self.pieces)
        return sum(piece.num_bytes for piece in self.pieces)


def main(found: Path) -> None:
    sizes = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    folder = tempfile.mkdtemp(prefix="fsr-", dir="/tmp")  # short: Ray's socket paths have a length limit
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder, **sizes})
    holder = add_shelf(cluster)
    reader = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    ray.init(address=cluster.address, log_to_driver=False)
    found.write_text(json.dumps({**fetch_once(holder, reader), **lose_a_node(cluster, holder, reader)}))
    ray.shutdown()
    cluster.shutdown()


def add_shelf(cluster: Cluster) -> Any:
    """A node that servers may run on."""
    return cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, resources={"shelf": 4})


def fetch_once(holder: Any, reader: Any) -> dict[str, int]:
    """Two readers of one node at the same time, and two after them; the weights lie on another node."""
    store = WeightStore.start(LAYERS, 2, resources={"shelf": 1})
    readers = [reader_on(reader) for _ in range(4)]
    before = created(reader.node_id)
    sizes = ray.get([each.read.remote(store) for each in readers[:2]])
    sizes += ray.get([each.read.remote(store) for each in readers[2:]])
    arrived = created(reader.node_id) - before
    store.close()
    return {"model_bytes": sizes[0], "num_reads": len(sizes), "bytes_fetched": arrived}


def lose_a_node(cluster: Cluster, holder: Any, reader: Any) -> dict[str, Any]:
    """The node of the servers dies; one that read goes on, one that comes later finds the store whole."""
    store = WeightStore.start(LAYERS, 2, resources={"shelf": 1})
    early, late = (reader_on(reader) for _ in range(2))
    ray.get(early.read.remote(store))
    before = {ray.get(server.node_id.remote()) for server in store.servers}
    add_shelf(cluster)
    cluster.remove_node(holder, allow_graceful=False)
    reading = late.read.remote(store)
    after = {wait_for(partial(node_of, server, before), TIMEOUT_S, "the server has moved") for server in store.servers}
    size = ray.get(reading)
    return {
        "were_on": before == {holder.node_id},
        "read_after_loss": size,
        "are_elsewhere": holder.node_id not in after,
    }


def node_of(server: Any, before: set[str]) -> str | None:
    """The node of a server that is none of ``before``: processes of a lost node may answer a little longer."""
    try:
        node_id = str(ray.get(server.node_id.remote(), timeout=TIMEOUT_S))
    except RayActorError:
        return None
    return None if node_id in before else node_id


def reader_on(node: Any) -> Any:
    return ray.remote(Reader).options(num_cpus=0, scheduling_strategy=on(node.node_id)).remote()


def on(node_id: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def created(node_id: str) -> int:
    """Bytes of objects that were made in a node's store so far, by tasks there or by a transfer."""
    (node,) = (node for node in ray.nodes() if node["NodeID"] == node_id)
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
    return int(stats.store_stats.cumulative_created_bytes)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
