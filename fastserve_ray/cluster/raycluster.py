"""KubeRay's RayCluster: a cluster that stays, for jobs that are submitted to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastserve_ray.cluster.checks import check_pods, refuse
from fastserve_ray.cluster.pods import (
    CONTAINER_SECURITY,
    SIDE_RESOURCES,
    config_map,
    metadata,
    node_template,
)

if TYPE_CHECKING:
    from fastserve_ray.cluster.app import App
    from fastserve_ray.cluster.pods import Component
    from fastserve_ray.spec.nodes import NodeTypeSpec

API_VERSION = "ray.io/v1"
RAY_VERSION = "2.60.0"
"""Of the image, and of what this version of FastServe-Ray is tested with."""


def render(app: App) -> list[dict[str, Any]]:
    """The app's file as a ConfigMap, and the cluster.

    Raises:
        SpecError: see `checks.check_pods`.
    """
    refuse(check_pods(app, reads_inputs=False))
    cluster = {
        "apiVersion": API_VERSION,
        "kind": "RayCluster",
        "metadata": metadata(app, "cluster"),
        "spec": cluster_spec(app, "cluster"),
    }
    return [config_map(app, "cluster"), cluster]


def cluster_spec(app: App, component: Component) -> dict[str, Any]:
    """``spec`` of a RayCluster, which a RayService and a RayJob hold too."""
    head = str(app.cluster.head_node_type)
    node = (app.cluster.available_node_types or {})[head]
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": app.cluster.grows,
        **({"autoscalerOptions": _autoscaler(app)} if app.cluster.grows else {}),
        **_fault_tolerance(app),
        "headGroupSpec": {
            "rayStartParams": start_params(node, offers=app.cluster.head_takes_work),
            **_ray_labels(node),
            "template": node_template(app, head, "head", component),
        },
        "workerGroupSpecs": [
            {
                "groupName": name,
                "replicas": worker.min_workers,
                "minReplicas": worker.min_workers,
                "maxReplicas": app.cluster.most_of(name),
                "rayStartParams": start_params(worker, offers=True),
                **_ray_labels(worker),
                "template": node_template(app, name, "worker", component),
            }
            for name, worker in app.cluster.worker_types.items()
        ],
    }


def start_params(node: NodeTypeSpec, *, offers: bool) -> dict[str, str]:
    """Flags of ``ray start`` that KubeRay does not take from the pod's limits.

    Args:
        offers: whether tasks, actors and replicas may run on the node.
    """
    params = {} if offers else {"num-cpus": "0", "num-gpus": "0"}
    if node.resources.custom:
        params["resources"] = json.dumps(json.dumps(node.resources.custom))  # KubeRay puts it into a shell's line
    return params


def _ray_labels(node: NodeTypeSpec) -> dict[str, Any]:
    return {"labels": dict(node.labels)} if node.labels else {}


def _autoscaler(app: App) -> dict[str, Any]:
    """A container in the head's pod."""
    given = app.cluster.autoscaler
    return {
        "version": given.version,
        "idleTimeoutSeconds": given.idle_timeout_s,
        "upscalingMode": given.upscaling_mode,
        "imagePullPolicy": app.cluster.kubernetes.image_pull_policy,
        "resources": {"limits": SIDE_RESOURCES, "requests": SIDE_RESOURCES},
        "securityContext": CONTAINER_SECURITY,
        "env": [{"name": "HOME", "value": "/tmp"}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }


def _fault_tolerance(app: App) -> dict[str, Any]:
    given = app.cluster.fault_tolerance
    if given is None:
        return {}
    options: dict[str, Any] = {"redisAddress": given.redis_address}
    if given.redis_username is not None:
        options["redisUsername"] = {"value": given.redis_username}
    if given.redis_password is not None:
        secret = app.cluster.secrets[given.redis_password]
        reference = {"name": secret.name, "key": secret.key or given.redis_password}
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": reference}}
    if given.external_storage_namespace is not None:
        options["externalStorageNamespace"] = given.external_storage_namespace
    return {"gcsFaultToleranceOptions": options}
