"""Rules about what a cluster's processes are given: secrets, variables, volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.nodes import bytes_of
from fastserve_ray.spec.problems import Finding
from fastserve_ray.spec.words import listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.yaml_reader import Path


def check_secrets(spec: RunSpec) -> Iterator[Finding]:
    """Each secret says where it is, and nothing is given twice."""
    cluster = spec.cluster
    for variable, secret in cluster.secrets.items():
        at: Path = ("cluster", "secrets", variable)
        if secret.name is None and secret.file is None:
            yield Finding(at, "nothing says where the secret is", None, "name (Kubernetes), file (ray up), or both")
        if secret.key is not None and secret.name is None:
            yield Finding((*at, "key"), "there is no `name` of a Secret", secret.key, "only with name")
        if variable in cluster.runtime_env.env_vars:
            path: Path = ("cluster", "runtime_env", "env_vars", variable)
            yield Finding(path, "this variable is a secret too", None, "one of both", uses=(at,))
    tolerance = cluster.fault_tolerance
    if tolerance is not None and tolerance.redis_password not in (None, *cluster.secrets):
        yield Finding(
            ("cluster", "fault_tolerance", "redis_password"),
            "there is no such secret",
            tolerance.redis_password,
            listing(cluster.secrets) or "a name in cluster.secrets",
            uses=(("cluster", "secrets"),),
        )


def check_pods(spec: RunSpec) -> Iterator[Finding]:
    """Paths of volumes differ, and /dev/shm leaves memory to the processes."""
    kubernetes = spec.cluster.kubernetes
    seen: set[str] = set()
    for at, volume in enumerate(kubernetes.volumes):
        path = volume.path.rstrip("/")
        if path in seen:
            yield Finding(("cluster", "kubernetes", "volumes", at, "path"), "stands twice", path, "another path")
        seen.add(path)
    for name, node in (spec.cluster.available_node_types or {}).items():
        if kubernetes.shm_size is None or node.resources.memory is None:
            continue
        if bytes_of(kubernetes.shm_size) >= bytes_of(node.resources.memory):
            yield Finding(
                ("cluster", "kubernetes", "shm_size"),
                f"as large as the whole memory of a {name} node ({node.resources.memory})",
                kubernetes.shm_size,
                f"less than {node.resources.memory}",
                uses=(("cluster", "available_node_types", name, "resources", "memory"),),
            )
            return
