"""What is rendered: a spec whose cluster is fully described, and the model that is served."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray import __version__
from fastserve_ray.cluster.names import kubernetes_name
from fastserve_ray.cluster.text import to_yaml
from fastserve_ray.plan.stages import stage_inputs
from fastserve_ray.spec.load import dump_spec, spec_from_dict
from fastserve_ray.spec.nodes import num_places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.cluster import ClusterSpec
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.train import WorkerResources
    from fastserve_ray.spec.yaml_reader import Plain

IMAGE = f"fastserve-ray:{__version__}"
"""What the Dockerfile of this version is called where the file names no other image."""
EMBEDDED = ("num_cpus", "num_gpus", "object_store_memory_mb", "include_dashboard")
"""Keys of an embedded Ray, which have no meaning in a cluster."""
HEAD: dict[str, Plain] = {"resources": {"CPU": 2, "memory": "8Gi"}}
MIN_CPUS = 4
GIB_PER_CPU = 4
"""Of a worker in a file that describes none; what common machines have."""


@dataclass(frozen=True)
class App:
    """One file, ready to be rendered."""

    spec: RunSpec
    """With ``cluster.address: auto`` and node types."""
    model: str | None = None
    """Reference of the model to serve; None: what the file's own run makes."""
    notes: tuple[str, ...] = ()
    """What was added to the file, for a comment above the output."""

    @property
    def name(self) -> str:
        """Of every Kubernetes object."""
        return kubernetes_name(self.spec.name)

    @property
    def cluster(self) -> ClusterSpec:
        return self.spec.cluster

    @property
    def image(self) -> str:
        return self.cluster.image or IMAGE

    @property
    def data(self) -> dict[str, Plain]:
        """The file's keys."""
        return dump_spec(self.spec)

    @property
    def text(self) -> str:
        """The file."""
        return to_yaml(self.data)

    @property
    def last_stage(self) -> str | None:
        """The stage before ``serve``; None where nothing is trained, compressed or verified."""
        stages = [stage for stage in stage_inputs(self.spec) if stage not in ("serve", "import")]
        return stages[-1] if stages else None


def app_of(spec: RunSpec, model: str | None = None) -> App:
    """``spec`` with all that a cluster must know: node types are made from the plan where the file describes none.

    Raises:
        SpecError: the nodes do not go with the rest.
    """
    data = dump_spec(spec)
    given = data.get("cluster")
    cluster = {key: value for key, value in given.items() if key not in EMBEDDED} if isinstance(given, dict) else {}
    notes = []
    if spec.cluster.available_node_types is None:
        cluster |= {"head_node_type": "head", "available_node_types": {"head": HEAD, "worker": _worker(spec)}}
        notes.append("the file has no cluster.available_node_types: the nodes are made from what its stages ask for")
    described = spec_from_dict({**data, "cluster": {**cluster, "address": "auto"}})
    return App(described, model, (*notes, *_over_all_types(described.cluster)))


def _over_all_types(cluster: ClusterSpec) -> Iterator[str]:
    most = sum(map(cluster.most_of, cluster.worker_types))
    if cluster.max_workers is not None and most > cluster.max_workers:
        yield f"KubeRay has no limit over all types: it may make {most} workers, more than cluster.max_workers"


def _worker(spec: RunSpec) -> dict[str, Plain]:
    """A type whose nodes hold the largest bundle, as many as the most demanding stage needs."""
    asked = [list(_of_training(spec)), list(_of_serving(spec))]
    every = [each for bundles in asked for _, each in bundles]
    cpus = max([MIN_CPUS, *(math.ceil(each.CPU) for each in every)])
    gpus = max([0, *(math.ceil(each.GPU) for each in every)])
    node = {"CPU": cpus, "GPU": gpus}
    nodes = [sum(math.ceil(count / num_places(node, dict(each))) for count, each in bundles) for bundles in asked]
    resources: dict[str, Plain] = {"CPU": cpus, "GPU": gpus, "memory": f"{cpus * GIB_PER_CPU}Gi"}
    return {"resources": resources, "max_workers": max(1, *nodes)}


def _of_training(spec: RunSpec) -> Iterator[tuple[int, WorkerResources]]:
    """Bundles that are there at the same time, and their size."""
    if spec.train is not None:
        yield max(spec.train.parallel.num_ranks, spec.ranks_per_trial), spec.train.resources_per_worker


def _of_serving(spec: RunSpec) -> Iterator[tuple[int, WorkerResources]]:
    if spec.serve is not None:
        for each in (spec.serve, *map(spec.serve.of_further, spec.serve.models)):
            yield each.autoscaling_config.max_replicas * each.shards.tensor, each.resources_per_replica
