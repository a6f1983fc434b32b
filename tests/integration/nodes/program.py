"""The program of `test_nodes`, run on the head's machine: it trains and serves over several nodes, and loses some.

Each node but the head has one processor, so two workers, or two shards, are on two nodes. Writes what it found as JSON.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import ray

from fastserve_ray.events.log import EventReader
from fastserve_ray.serve.client import is_ready
from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.serve import AutoscalingSpec, ServeSpec, ShardsSpec
from fastserve_ray.spec.weights import WeightsSpec
from fastserve_ray.training.launch import train_on_ray
from tests.integration.faults import Clients, Seen
from tests.integration.nodes.machines import Nodes, kill
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastserve_ray.events.event import Event as RunEvent

NAME = "tiny"
TOKENS = 40
KILLED_AT = 100
"""A step. Ray's controller has heard of several checkpoints by then, and some seconds of training are left."""
BACK_S = 240.0
STARTED = time.monotonic()
SHARDED = ServeSpec(port=0, shards=ShardsSpec(tensor=2))
REPLICATED = ServeSpec(
    port=0,
    weights=WeightsSpec(store="on", shards=2),
    autoscaling_config=AutoscalingSpec(min_replicas=2, max_replicas=2),
)


@dataclass(frozen=True)
class Work:
    """What the program is given."""

    nodes: Nodes
    model: Path
    """A folder with a model that generates."""
    training: dict[str, Any]
    """Arguments of `train_on_ray`, with two workers."""


class Workers:
    """The nodes beside the head. The one that came last is the one that is lost, and another takes its place."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._spare = list(range(1, len(nodes.machines)))
        self._servers: list[int] = []

    def add(self) -> None:
        self._servers = self._nodes.start(self._spare.pop(0), num_cpus=1)

    def lose(self) -> None:
        kill(self._servers)


def say(what: str) -> None:
    """For whoever reads why the program failed, or was slow."""
    print(f"{time.monotonic() - STARTED:6.1f} s  {what}", file=sys.stderr, flush=True)


def main(work: Work) -> dict[str, Any]:
    workers = Workers(work.nodes)
    work.nodes.start(0, num_cpus=0)
    workers.add()
    workers.add()
    ray.init(address=work.nodes.head_address, log_to_driver=False)
    say("three nodes")
    addresses = sorted(node["NodeManagerAddress"] for node in ray.nodes())
    metrics = train(work, workers)
    shards = serve(work.model, SHARDED, workers)
    replicas = serve(work.model, REPLICATED, workers)
    ray.shutdown()
    return {"addresses": addresses, "training": metrics, "shards": shards, "replicas": replicas}


def train(work: Work, workers: Workers) -> dict[str, float]:
    """A node is lost when some checkpoints are there."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(train_on_ray, **work.training)
        reader = EventReader(work.training["storage_uri"], work.training["run_id"])
        while not any(is_late_checkpoint(event) for event in reader.poll()):
            assert not future.done(), future.result()
            time.sleep(0.05)
        say("training has checkpoints")
        workers.lose()
        workers.add()
        say("a node was replaced")
        return dict(future.result().metrics)


def is_late_checkpoint(event: RunEvent) -> bool:
    return event.kind == "checkpoint_written" and int(str(event.fields["step"])) >= KILLED_AT


def serve(model: Path, spec: ServeSpec, workers: Workers) -> dict[str, Any]:
    """An answer; then a node is lost under load. The head, with the clients' connections, stays."""
    say("training is over, or the application before")
    app = deploy(model, "text-generation", NAME, spec)
    say("deployed")
    try:
        clients = Clients(app.url, TOKENS)
        before = clients.whole(TOKENS).result()
        with load(clients) as seen:
            wait_for(lambda: len(seen) >= 3, BACK_S, "requests are answered")
            workers.lose()
            since = time.monotonic()
            workers.add()
            say("a node was replaced under load")
            wait_for(lambda: is_whole(app), BACK_S, "all replicas are there again")
            seconds = time.monotonic() - since
            say("all replicas are there again")
        after = clients.whole(TOKENS).result()
    finally:
        app.shutdown()
    return {
        "before": before.text,
        "after": after.text,
        "under_load": outcomes(seen),
        "seconds": seconds,
    }


@contextmanager
def load(clients: Clients) -> Iterator[list[Seen]]:
    """Two clients that ask again and again; what they have seen so far."""
    seen: list[Seen] = []
    is_over = Event()

    def ask() -> None:
        while not is_over.is_set():
            seen.append(clients.whole(TOKENS).result())

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            yield seen
        finally:
            is_over.set()
        for each in asking:
            each.result()


def outcomes(seen: Sequence[Seen]) -> list[tuple[int | None, str, str | None]]:
    """Status, text and the error's code of each."""
    return [(each.status, each.text, None if each.error is None else str(each.error["code"])) for each in seen]


def is_whole(app: ServedApp) -> bool:
    """All replicas that there should be are running, on nodes that live, and answer."""
    from ray import serve as ray_serve

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    if len(alive) < 3:
        return False
    deployments = ray_serve.status().applications[app.name].deployments.values()
    return all(each.status == "HEALTHY" for each in deployments) and is_ready(f"{app.url}/ready")


if __name__ == "__main__":
    given, found = (Path(path) for path in sys.argv[1:])
    found.write_text(json.dumps(main(pickle.loads(given.read_bytes()))))
