"""Rules about ``cluster.available_node_types``: types that go together, and nodes that hold what the file asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fastserve_ray.spec.problems import Finding
from fastserve_ray.spec.words import listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.cluster import ClusterSpec
    from fastserve_ray.spec.nodes import NodeTypeSpec
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.serve import ServeSpec
    from fastserve_ray.spec.train import WorkerResources
    from fastserve_ray.spec.yaml_reader import Path

TYPES = "available_node_types"


@dataclass(frozen=True)
class _Demand:
    """Equal bundles that must be there at the same time."""

    path: Path
    """The key that says how many."""
    count: int
    each: WorkerResources
    each_path: Path


def check_nodes(spec: RunSpec) -> Iterator[Finding]:
    """A head that is one of the types, numbers that go together, and room for every stage."""
    cluster = spec.cluster
    if cluster.available_node_types is None:
        if cluster.head_node_type is not None:
            yield _finding("head_node_type", "there are no node types", cluster.head_node_type, f"only with {TYPES}")
        return
    yield from _embedded_keys(cluster)
    found = list(_head(cluster)) or list(_numbers(cluster))
    yield from found or _rooms(spec)


def _embedded_keys(cluster: ClusterSpec) -> Iterator[Finding]:
    for name in ("num_cpus", "num_gpus", "object_store_memory_mb"):
        value = getattr(cluster, name)
        if value is not None and cluster.address == "local":  # beside another address it is told there
            what = "this is the size of an embedded Ray, and the nodes have theirs"
            yield _finding(name, what, str(value), f"only without {TYPES}", uses=(("cluster", TYPES),))


def _head(cluster: ClusterSpec) -> Iterator[Finding]:
    types = cluster.available_node_types or {}
    if cluster.head_node_type is None:
        yield _finding(TYPES, "no type is that of the head", None, f"head_node_type: {listing(types)}")
    elif cluster.head_node_type not in types:
        yield _finding("head_node_type", "there is no such node type", cluster.head_node_type, listing(types))
    else:
        head = types[cluster.head_node_type]
        for name in ("min_workers", "max_workers"):
            if getattr(head, name):
                what = "the head is one node, and no worker; another type may have the same resources"
                yield _of_type(cluster.head_node_type, name, what, str(getattr(head, name)), "0")
    if cluster.work_on_head is False and not cluster.worker_types:
        yield _finding("work_on_head", "there is no other node type", "false", "true, or a further type")


def _numbers(cluster: ClusterSpec) -> Iterator[Finding]:
    for name, node in cluster.worker_types.items():
        most = node.max_workers if node.max_workers is not None else cluster.max_workers
        if most is not None and node.min_workers > most:
            whose = "its max_workers" if node.max_workers is not None else "cluster.max_workers"
            yield _of_type(name, "min_workers", f"more than {whose} ({most})", str(node.min_workers), f"0 to {most}")
        elif not (node.min_workers if most is None else most):
            yield _of_type(name, "max_workers", "there can be no node of this type", "0", "an integer greater than 0")
    least = sum(node.min_workers for node in cluster.worker_types.values())
    if cluster.max_workers is not None and least > cluster.max_workers:
        what = f"less than the min_workers of all types together ({least})"
        yield _finding("max_workers", what, str(cluster.max_workers), f"at least {least}")


def _rooms(spec: RunSpec) -> Iterator[Finding]:
    for demand in _demands(spec):
        yield from _room(spec.cluster, demand)
    if spec.serve is not None and spec.serve.models:
        yield from _room_for_all(spec.cluster, [spec.serve, *map(spec.serve.of_further, spec.serve.models)])


def _demands(spec: RunSpec) -> Iterator[_Demand]:
    if spec.train is not None:
        each, path = spec.train.resources_per_worker, ("train", "resources_per_worker")
        yield _Demand(("train", "parallel", "workers"), spec.train.parallel.num_ranks, each, path)
        if spec.tune is not None:
            yield _Demand(("tune", "workers_per_trial"), spec.ranks_per_trial, each, path)
    if spec.serve is not None:
        yield _of_served(spec.serve, ("serve",), ("serve",))
        for name, further in spec.serve.models.items():
            at: Path = ("serve", "models", name)
            own = at if further.resources_per_replica is not None else ("serve",)
            yield _of_served(spec.serve.of_further(name), at, own)


def _of_served(serve: ServeSpec, at: Path, resources_at: Path) -> _Demand:
    shards, replicas = serve.shards.tensor, max(1, serve.autoscaling_config.min_replicas)
    is_one = replicas == 1
    path = (*at, "shards", "tensor") if shards > 1 and is_one else (*at, "autoscaling_config", "min_replicas")
    if is_one and shards == 1:
        path = (*resources_at, "resources_per_replica")
    each_path = (*resources_at, "resources_per_replica")
    return _Demand(path, replicas * shards, serve.resources_per_replica, each_path)


def _room(cluster: ClusterSpec, demand: _Demand) -> Iterator[Finding]:
    """Whether the nodes, with nothing else to do, hold all bundles of a demand."""
    places = {name: node.places(demand.each.CPU, demand.each.GPU) for name, node in cluster.working_types.items()}
    there = cluster.most_together(places)
    if there >= demand.count:
        return
    each = _bundle(demand.each)
    if not any(places.values()):
        nodes = "; ".join(f"{name} has {_node_words(node)}" for name, node in cluster.working_types.items())
        yield Finding(demand.each_path, f"no node can hold {each}", each, f"what a node has: {nodes}", uses=_USES)
        return
    numbers = ", ".join(
        f"{places[name]} on each of {cluster.most_of(name)} {name}" for name in places if places[name] > 0
    )
    cap = "" if cluster.max_workers is None else f", with {cluster.max_workers} nodes beside the head at most"
    yield Finding(
        demand.path,
        f"{demand.count} x ({each}) is more than the nodes hold: {there} ({numbers}{cap})",
        str(demand.count),
        f"at most {there} in all, or more nodes in cluster.{TYPES}",
        uses=(*_USES, demand.each_path),
    )


def _room_for_all(cluster: ClusterSpec, served: list[ServeSpec]) -> Iterator[Finding]:
    """Whether the processors and GPUs of all nodes suffice for the least replicas of every model."""
    kinds: tuple[Literal["CPU"], Literal["GPU"]] = ("CPU", "GPU")
    for kind in kinds:
        asked = sum(
            each.autoscaling_config.min_replicas * each.shards.tensor * getattr(each.resources_per_replica, kind)
            for each in served
        )
        there = cluster.most_of_resource(kind)
        if asked > there:
            yield Finding(
                ("serve", "models"),
                f"all models together need more {kind}s than all nodes have ({there})",
                f"{asked:g}",
                f"fewer or smaller replicas, or more nodes in cluster.{TYPES}",
                uses=(*_USES, ("serve", "autoscaling_config"), ("serve", "resources_per_replica")),
            )


_USES: tuple[Path, ...] = (("cluster", TYPES), ("cluster", "max_workers"))


def _bundle(each: WorkerResources) -> str:
    return f"{each.CPU:g} CPU" + (f" + {each.GPU:g} GPU" if each.GPU else "")


def _node_words(node: NodeTypeSpec) -> str:
    return f"{node.resources.CPU} CPU and {node.resources.GPU or 'no'} GPU"


def _of_type(name: str, key: str, message: str, value: str, allowed: str) -> Finding:
    return Finding(("cluster", TYPES, name, key), message, value, allowed)


def _finding(key: str, message: str, value: str | None, allowed: str, *, uses: tuple[Path, ...] = ()) -> Finding:
    return Finding(("cluster", key), message, value, allowed, uses=uses)
