"""The file of ``ray up``, Ray's launcher of clusters on machines of a cloud or on machines that are there.

Commands on each node export what Serve's processes read from their Ray's environment, and secrets from files of the
node. Its jobs come later, through ``fastserve submit``.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from fastserve_ray.cluster.checks import refuse
from fastserve_ray.errors import Problem
from fastserve_ray.serve.environment import ENVIRONMENT
from fastserve_ray.spec.nodes import bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.cluster.app import App
    from fastserve_ray.spec.nodes import NodeTypeSpec

CONTAINER = "fastserve"
NO_LIMIT = 1000.0
"""What KubeRay's modes Default and Aggressive mean in ``ray up``: any number of nodes at once."""
_OPEN_FILES = "ulimit -n 65536"


def render(app: App) -> list[dict[str, Any]]:
    """The cluster.

    Raises:
        SpecError: no provider is given, a secret has no file, or nothing says how FastServe-Ray gets to the nodes.
    """
    refuse(_problems(app))
    cluster = app.cluster
    conservative = cluster.autoscaler.upscaling_mode == "Conservative"
    return [
        {
            "cluster_name": app.name,
            **_size(app),
            "idle_timeout_minutes": cluster.autoscaler.idle_timeout_s / 60,
            "upscaling_speed": 1.0 if conservative else NO_LIMIT,
            "provider": dict(cluster.provider),
            "auth": cluster.auth.model_dump(exclude_none=True),
            **_docker(app),
            **_nodes(app),
            "setup_commands": list(cluster.setup_commands),
            "head_start_ray_commands": ["ray stop", _start_head(app)],
            "worker_start_ray_commands": ["ray stop", _start_worker(app)],
        }
    ]


def _problems(app: App) -> Iterator[Problem]:
    cluster = app.cluster
    if not isinstance(cluster.provider.get("type"), str):
        allowed = "such as {type: aws, region: eu-central-1} or {type: local, head_ip: .., worker_ips: [..]}"
        yield Problem("cluster.provider", "ray up must know where nodes come from", allowed=allowed)
    for variable, secret in cluster.secrets.items():
        if secret.file is None:
            allowed = "the path of a file on every node that holds the value alone"
            yield Problem(f"cluster.secrets.{variable}.file", "ray up has no other place for a secret", allowed=allowed)
    if cluster.image is None and not cluster.setup_commands:
        allowed = "the name of an image, or cluster.setup_commands that install FastServe-Ray"
        yield Problem("cluster.image", "nothing brings FastServe-Ray to the nodes", allowed=allowed)


def _is_local(app: App) -> bool:
    """Machines that are there already have no types."""
    return app.cluster.provider.get("type") == "local"


def _size(app: App) -> dict[str, Any]:
    addresses = app.cluster.provider.get("worker_ips")
    if _is_local(app) and isinstance(addresses, list):
        return {"max_workers": len(addresses)}
    return {"max_workers": app.cluster.most_workers}


def _docker(app: App) -> dict[str, Any]:
    if app.cluster.image is None:
        return {}
    head = (app.cluster.available_node_types or {})[str(app.cluster.head_node_type)].image
    files = [secret.file for secret in app.cluster.secrets.values()]
    docker = {
        "image": app.cluster.image,
        **({} if head is None else {"head_image": head}),
        "container_name": CONTAINER,
        "pull_before_run": True,
        "run_options": [f"-v {shlex.quote(f'{file}:{file}:ro')}" for file in files],
    }
    return {"docker": docker}


def _nodes(app: App) -> dict[str, Any]:
    if _is_local(app):
        return {}
    types = app.cluster.available_node_types or {}
    head = app.cluster.head_node_type
    return {
        "head_node_type": head,
        "available_node_types": {
            name: _node(app, name, node, offers=name != head or app.cluster.head_takes_work)
            for name, node in types.items()
        },
    }


def _node(app: App, name: str, node: NodeTypeSpec, *, offers: bool) -> dict[str, Any]:
    is_head = name == app.cluster.head_node_type
    offered = {"CPU": node.resources.CPU, "GPU": node.resources.GPU} if offers else {}
    memory = {} if node.resources.memory is None else {"memory": bytes_of(node.resources.memory)}
    image = {} if node.image is None or is_head else {"docker": {"worker_image": node.image}}
    return {
        "resources": {"CPU": 0, "GPU": 0, **offered, **memory, **node.resources.custom},
        "min_workers": node.min_workers,
        "max_workers": 0 if is_head else app.cluster.most_of(name),
        **({"labels": dict(node.labels)} if node.labels else {}),
        "node_config": dict(node.node_config),
        **image,
    }


def _start_head(app: App) -> str:
    flags = "--head --port=6379 --object-manager-port=8076 --autoscaling-config=~/ray_bootstrap_config.yaml"
    if not app.cluster.head_takes_work:
        flags += " --num-cpus=0 --num-gpus=0"
    given = app.cluster.fault_tolerance
    exports = _exports(app)
    if given is not None:
        namespace = given.external_storage_namespace or app.name
        exports += _export("RAY_REDIS_ADDRESS", given.redis_address)
        exports += _export("RAY_external_storage_namespace", namespace)
        flags += f" --redis-username={shlex.quote(given.redis_username)}" if given.redis_username else ""
        flags += f' --redis-password="${given.redis_password}"' if given.redis_password else ""
    return f"{_OPEN_FILES}; {exports}ray start {flags}"


def _start_worker(app: App) -> str:
    return f"{_OPEN_FILES}; {_exports(app)}ray start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076"


def _exports(app: App) -> str:
    plain = "".join(_export(name, value) for name, value in ENVIRONMENT.items())
    secrets = "".join(
        f'export {variable}="$(cat {shlex.quote(str(secret.file))})"; '
        for variable, secret in app.cluster.secrets.items()
    )
    return plain + secrets


def _export(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}; "
