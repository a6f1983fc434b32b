"""The program of `test_head_loss`, run on a worker's machine: the head is lost while this machine trains and serves.

Ray's state lies in Redis, on a third machine. Then the head comes back. Writes what it found as JSON.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve as ray_serve
from ray._private.state import actors

from fastserve_ray.events.log import EventReader
from fastserve_ray.serve.client import is_ready
from fastserve_ray.serve.deploy import deploy
from fastserve_ray.spec.serve import ServeSpec
from fastserve_ray.training.launch import train_on_ray
from tests.integration.faults import Clients
from tests.integration.nodes.machines import Nodes, kill
from tests.integration.nodes.program import BACK_S, NAME, TOKENS, is_late_checkpoint, load, outcomes, say
from tests.waiting import wait_for

ANSWERS_WITHOUT_HEAD = 20


@dataclass(frozen=True)
class Work:
    """What the program is given."""

    nodes: Nodes
    redis: str
    """host:port"""
    password: str
    model: Path
    """A folder with a model that generates."""
    training: dict[str, Any]
    """Arguments of `train_on_ray`, with one worker."""


def main(work: Work) -> dict[str, Any]:
    head = start_head(work)
    work.nodes.start(1, num_cpus=2)
    ray.init(
        address=work.nodes.head_address, _node_ip_address=work.nodes.machines[1].address, log_to_driver=False
    )  # else it joins the first raylet in Ray's temporary folder, which the machines share here
    app = deploy(work.model, "text-generation", NAME, ServeSpec(port=0, host="0.0.0.0"))
    say("deployed")
    serving_on = sorted({actor["Address"]["IPAddress"] for actor in actors().values() if is_replica(actor)})
    clients = Clients(app.url, TOKENS)
    reader = EventReader(work.training["storage_uri"], work.training["run_id"])
    with ThreadPoolExecutor(1) as pool, load(clients) as seen:
        future = pool.submit(train_on_ray, **work.training)
        wait_for(
            lambda: future.done() or any(map(is_late_checkpoint, reader.poll())), BACK_S, "training has checkpoints"
        )
        assert not future.done(), future.result()
        kill(head)
        say("the head is lost")
        num_before = len(seen)
        wait_for(lambda: len(seen) >= num_before + ANSWERS_WITHOUT_HEAD, BACK_S, "answers without a head")
        was_training = not future.done()
        say("answers came without a head")
        start_head(work)
        say("the head is back")
        since = time.monotonic()
        wait_for(lambda: is_ready(f"{app.url}/ready") and is_running(), BACK_S, "the application runs")
        seconds = time.monotonic() - since
        say("the application runs")
        metrics = dict(future.result().metrics)
    app.shutdown()
    ray.shutdown()
    return {
        "serving_on": serving_on,
        "under_load": outcomes(seen),
        "was_training": was_training,
        "training": metrics,
        "seconds": seconds,
    }


def start_head(work: Work) -> list[int]:
    return work.nodes.start(0, {"RAY_REDIS_ADDRESS": work.redis}, num_cpus=0, redis_password=work.password)


def is_replica(actor: dict[str, Any]) -> bool:
    """Of a deployment: the model, the ingress."""
    return actor["State"] == "ALIVE" and str(actor["Name"]).startswith("SERVE_REPLICA::")


def is_running() -> bool:
    return bool(ray_serve.status().applications[NAME].status == "RUNNING")


if __name__ == "__main__":
    given, found = (Path(path) for path in sys.argv[1:])
    found.write_text(json.dumps(main(pickle.loads(given.read_bytes()))))
