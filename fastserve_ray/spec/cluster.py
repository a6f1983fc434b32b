"""``cluster``: where Ray runs, and what it consists of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, JsonValue

from fastserve_ray.spec.base import ListInput, NonNegativeInt, PositiveInt, Section, Words
from fastserve_ray.spec.kubernetes import FaultToleranceSpec, KubernetesSpec, SecretSpec, VariableName
from fastserve_ray.spec.nodes import AutoscalerSpec, NodeTypeName, NodeTypeSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

ADDRESS_PATTERN = r"^(local|auto|https?://[^\s/:]+(:[0-9]+)?/?)$"
ADDRESS_WORDS = (
    "local, auto, or http(s)://HEAD:8265, where the run becomes a job; not ray://, "
    "for training and serving do not run through a Ray Client"
)


class RuntimeEnvSpec(Section):
    """What Ray's processes get beside the image; Ray's own names. An embedded Ray takes ``env_vars`` alone: it has the
    packages and the folder of the process that starts it."""

    pip: Annotated[tuple[str, ...], ListInput] = ()
    """Requirements that each node installs when the first process starts there."""
    env_vars: dict[VariableName, str] = {}
    """Environment variables; what is secret belongs under ``cluster.secrets``."""
    working_dir: str | None = None
    """A folder that is uploaded with a job, or a URI of a zip file (https://, s3://, gs://) or of a folder on every
    node (local:///path). What a cluster serves by itself needs a URI."""

    def as_ray(self) -> dict[str, JsonValue]:
        """What is set, in Ray's form."""
        kept: dict[str, JsonValue] = {
            "pip": list(self.pip),
            "env_vars": dict(self.env_vars),
            "working_dir": self.working_dir,
        }
        return {name: value for name, value in kept.items() if value}


class SshSpec(Section):
    """How ``ray up`` reaches its nodes; Ray's own names."""

    ssh_user: str = "ubuntu"
    ssh_private_key: str | None = None
    """Path of the key's file on the machine where ``ray up`` runs; default: the provider's."""
    ssh_proxy_command: str | None = None
    """For nodes behind another machine."""


class ClusterSpec(Section):
    """An embedded Ray on this machine, a Ray that already runs, or a description from which one is made."""

    address: Annotated[str, Field(pattern=ADDRESS_PATTERN), Words(ADDRESS_WORDS)] = "local"
    """local starts a Ray of its own and stops it at the end; auto joins the Ray that runs on this machine;
    http://HEAD:8265 names the cluster that jobs are submitted to. ray:// (Ray Client) is not taken: Ray recommends
    jobs, and the process that drives a run must be inside its cluster."""
    num_cpus: PositiveInt | None = None
    """CPUs that the embedded Ray offers; default: what the machine has."""
    num_gpus: NonNegativeInt | None = None
    """GPUs that the embedded Ray offers; default: what the machine has."""
    memory_mb: PositiveInt | None = None
    """Memory of one node in MiB, for the check that training fits; default: that of this machine, for an embedded
    Ray; else that of ``available_node_types``."""
    gpu_memory_mb: PositiveInt | None = None
    """Memory of one GPU in MiB, for the same check; default: what nvidia-smi says on this machine, for an embedded
    Ray."""
    object_store_memory_mb: Annotated[int, Field(ge=80)] | None = None
    """Shared memory of the embedded Ray's object store in MiB; default: Ray's (30 % of the memory)."""
    include_dashboard: bool = True
    """Start Ray's dashboard with the embedded Ray."""

    max_workers: NonNegativeInt | None = None
    """Nodes beside the head at most, of all types together; default: the sum of the types' ``max_workers``."""
    head_node_type: NodeTypeName | None = None
    """Which of ``available_node_types`` the head is."""
    available_node_types: Annotated[dict[NodeTypeName, NodeTypeSpec], Field(min_length=1)] | None = None
    """The nodes of the cluster by type; what ``fastserve render`` writes for ``ray up``, KubeRay and Helm, and what
    a plan is checked against."""
    work_on_head: bool | None = None
    """Whether training and replicas may run on the head; default: only where there is no other type."""
    autoscaler: AutoscalerSpec = AutoscalerSpec()
    runtime_env: RuntimeEnvSpec = RuntimeEnvSpec()
    image: str | None = None
    """Container image of every node, with FastServe-Ray in it. ``ray up`` goes without one where ``setup_commands``
    install it."""
    secrets: dict[VariableName, SecretSpec] = {}
    """Secrets by the environment variable that the processes find them in; never their values."""
    fault_tolerance: FaultToleranceSpec | None = None
    """Of the head; default: none, so that a cluster ends with its head."""
    provider: dict[str, JsonValue] = {}
    """``ray up``: the provider, as Ray takes it: ``{type: aws, region: eu-central-1}``, or ``{type: local, head_ip: ..,
    worker_ips: [..]}`` for machines that are there already."""
    auth: SshSpec = SshSpec()
    """``ray up``: how it reaches the nodes."""
    setup_commands: Annotated[tuple[str, ...], ListInput] = ()
    """``ray up``: shell commands on every node before Ray starts, such as the installation of FastServe-Ray."""
    kubernetes: KubernetesSpec = KubernetesSpec()

    @property
    def is_submitted_to(self) -> bool:
        """Whether ``address`` takes jobs, and cannot be joined."""
        return self.address.startswith("http")

    @property
    def worker_types(self) -> dict[str, NodeTypeSpec]:
        """All but the head's."""
        types = self.available_node_types or {}
        return {name: node for name, node in types.items() if name != self.head_node_type}

    @property
    def head_takes_work(self) -> bool:
        """Whether the head offers its processors to Ray."""
        return not self.worker_types if self.work_on_head is None else self.work_on_head

    def most_of(self, name: str) -> int:
        """Nodes of a type at most; 1 for the head's."""
        assert self.available_node_types is not None
        if name == self.head_node_type:
            return 1
        node = self.available_node_types[name]
        most = node.max_workers if node.max_workers is not None else (self.max_workers or node.min_workers)
        return most if self.max_workers is None else min(most, self.max_workers)

    @property
    def most_workers(self) -> int:
        """Nodes beside the head at most."""
        all_types = sum(map(self.most_of, self.worker_types))
        return all_types if self.max_workers is None else min(self.max_workers, all_types)

    @property
    def working_types(self) -> dict[str, NodeTypeSpec]:
        """The types whose nodes offer their processors to Ray."""
        return (self.available_node_types or {}) if self.head_takes_work else self.worker_types

    def most_together(self, of_each: Mapping[str, int]) -> int:
        """The most of something that all nodes have together, when there are as many as may be.

        Args:
            of_each: how much a node has, by type; a type that is not named has none.
        """
        head = self.head_node_type or ""
        total, left = of_each.get(head, 0), self.most_workers
        for name in sorted((name for name in of_each if name != head), key=lambda name: -of_each[name]):
            nodes = min(left, self.most_of(name))
            total, left = total + nodes * of_each[name], left - nodes
        return total

    def most_of_resource(self, kind: Literal["CPU", "GPU"]) -> int:
        """Processors or GPUs that Ray may have to give."""
        return self.most_together({name: getattr(node.resources, kind) for name, node in self.working_types.items()})

    @property
    def grows(self) -> bool:
        """Whether an autoscaler has something to decide."""
        return any(self.most_of(name) > node.min_workers for name, node in self.worker_types.items())

    @property
    def may_grow(self) -> bool:
        """Whether nodes may come to the Ray that a run works in: what does not fit today is waited for."""
        return self.address != "local" and self.grows
