"""What a deployment stands on: Ray, a place for a replica, and Ray Serve with its address."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.exceptions import RayActorError

from fastserve_ray.errors import PlacementError, ServeError
from fastserve_ray.serve.app import QUIET
from fastserve_ray.serve.environment import runtime_env_of, set_environment
from fastserve_ray.serve.ports import base_url, choose_port
from fastserve_ray.spec.nodes import num_places

STOP_TIMEOUT_S = 60.0
"""Replicas finish their requests first; after this time they are left to Ray."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.spec.cluster import ClusterSpec
    from fastserve_ray.spec.serve import ServeSpec


def ensure_ray(cluster: ClusterSpec | None, spec: ServeSpec, say: Callable[[str], None]) -> bool:
    """True when this process was connected to Ray here: to an embedded one, or to one that runs already."""
    if ray.is_initialized():
        return False
    say("starting Ray")
    choose_port(spec.host, spec.port)  # before the seconds that Ray takes
    if cluster is None or cluster.address == "local":
        set_environment()
    options: dict[str, Any] = {"address": "local", "include_dashboard": False}
    if cluster is not None and cluster.address == "local":
        memory = cluster.object_store_memory_mb
        options |= {"num_cpus": cluster.num_cpus, "num_gpus": cluster.num_gpus}
        options |= {"include_dashboard": cluster.include_dashboard}
        options |= {"object_store_memory": None if memory is None else memory * 2**20}
    elif cluster is not None:
        options = {"address": cluster.address}
    if cluster is not None:
        options |= {"runtime_env": runtime_env_of(cluster)}
    ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    return True


def check_placement(spec: ServeSpec) -> None:
    """Whether the replicas that are to be there at once have a place in this Ray, if it had nothing else to do.

    Raises:
        PlacementError: they have none; says what is asked for and what each node has.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_replicas, num_shards = max(1, spec.autoscaling_config.min_replicas), spec.shards.tensor
    each = each_of(spec)
    places = sum(num_places(node, each) for node in nodes)
    if places >= num_replicas * num_shards:
        return
    bundle = ", ".join(f"{amount:g} {kind}" for kind, amount in each.items())
    what = "a replica" if num_shards == 1 else "a shard"
    keys = ["serve.resources_per_replica"]
    keys += ["serve.shards.tensor"] * (num_shards > 1) + ["serve.autoscaling_config.min_replicas"] * (num_replicas > 1)
    present = "; ".join(
        f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU (room for {num_places(node, each)})" for node in nodes
    )
    raise PlacementError(
        f"no node can hold {what}" if not places else f"there is no room for all {what[2:]}s",
        value=f"{num_replicas} x {num_shards} bundles of {bundle}" if places else bundle,
        allowed=f"what the nodes have: {present}",
        key=" or ".join(keys),
    )


def each_of(spec: ServeSpec) -> dict[str, float]:
    """What one shard reserves."""
    return {"CPU": spec.resources_per_replica.CPU, "GPU": spec.resources_per_replica.GPU}


def ensure_serve(spec: ServeSpec) -> tuple[str, bool]:
    """The application's URL, and whether Serve was started here. Serve has one address for all its applications."""
    running = _running_http()
    if running is None:
        port = choose_port(spec.host, spec.port)
        start_serve({"host": spec.host, "port": port})
        return base_url(spec.host, port, spec.route_prefix), True
    host, port = running
    if spec.port not in (0, port):
        raise ServeError(
            "Ray Serve already runs in this Ray with another port",
            value=spec.port,
            allowed=f"{port}, or 0 to use the one that runs",
            key="serve.port",
        )
    return base_url(host, port, spec.route_prefix), False


def start_serve(http_options: dict[str, Any]) -> None:
    """Serve's controller starts another proxy in place of one that is lost while it starts, as on a machine that is so
    busy that it does not answer in time; the call that waits for the first one fails, and the next one joins."""
    try:
        serve.start(http_options=http_options, logging_config=QUIET)
    except RayActorError:
        serve.start(http_options=http_options, logging_config=QUIET)


def _running_http() -> tuple[str, int] | None:
    from ray.serve.context import _get_global_client

    try:
        client = _get_global_client()
    except serve.exceptions.RayServeException:
        return None
    return client.http_config.host, client.http_config.port


def stop_serve() -> None:
    """Stop every application and Serve itself.

    Not ``serve.shutdown()``: its call ends with the death of the controller, which Ray reports on the driver's terminal
    as a failed task.
    """
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    deadline = time.monotonic() + STOP_TIMEOUT_S
    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(controller.graceful_shutdown.remote(wait=False))
        while time.monotonic() < deadline:
            ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
            time.sleep(0.1)
    except (ValueError, RayActorError):
        serve.shutdown()  # forgets the client of the controller that is gone
