"""``cluster.kubernetes``, ``cluster.secrets`` and ``cluster.fault_tolerance``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastserve_ray.spec.base import ListInput, Section, Words
from fastserve_ray.spec.nodes import Quantity

KubernetesName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"),
    Words("a Kubernetes name: lower-case letters, digits, '-' and '.'"),
]
NodePath = Annotated[str, Field(pattern=r"^/[^/].*$"), Words("an absolute path")]
VariableName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), Words("a name of an environment variable: letters, digits and '_'")
]


class SecretSpec(Section):
    """Where a secret is kept; its value never stands in the file. The cluster's processes find it in an environment
    variable."""

    name: KubernetesName | None = None
    """Kubernetes: the Secret."""
    key: str | None = None
    """Kubernetes: the key in the Secret; default: the environment variable's name."""
    file: NodePath | None = None
    """``ray up``: a file on every node that holds the value alone."""


class FaultToleranceSpec(Section):
    """Ray's head writes its state to Redis, so that a cluster goes on when the head is lost and comes back."""

    redis_address: Annotated[str, Field(pattern=r"^(rediss?://)?[^\s/:]+:[0-9]+$"), Words("HOST:PORT of a Redis")]
    """For example ``redis:6379``, or ``rediss://redis:6379`` with TLS."""
    redis_username: str | None = None
    redis_password: VariableName | None = None
    """The entry of ``cluster.secrets`` that holds the password."""
    external_storage_namespace: str | None = None
    """Names this cluster's state in a Redis that several clusters share; default: ``ray up`` takes the run's name,
    KubeRay the cluster's id."""


class VolumeSpec(Section):
    """A PersistentVolumeClaim that every pod mounts; more than one node writes to it, so it is ReadWriteMany."""

    claim: KubernetesName
    path: NodePath
    """Where pods see it, for example ``/shared`` with ``storage: /shared/runs``."""
    read_only: bool = False


class KubernetesSpec(Section):
    """What only pods have."""

    namespace: KubernetesName | None = None
    """Default: the one that kubectl or Helm works in."""
    service_account: KubernetesName | None = None
    """Default: KubeRay makes one where the autoscaler needs it."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: Annotated[tuple[KubernetesName, ...], ListInput] = ()
    """Names of Secrets with the registry's password."""
    shm_size: Quantity | None = None
    """/dev/shm of each pod, where Ray's object store lies; it counts as memory of the pod. Default: a third of the
    pod's memory."""
    cache_claim: KubernetesName | None = None
    """PersistentVolumeClaim for models from the hub and from storage; default: each pod has a cache that ends with
    it."""
    volumes: Annotated[tuple[VolumeSpec, ...], ListInput] = ()
    """Further claims, for example a shared folder for ``storage``."""
    run_as_user: Annotated[int, Field(gt=0)] = 1000
    """User of the processes, never root; also their group."""
