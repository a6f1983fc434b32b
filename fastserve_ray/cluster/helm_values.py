"""Values of the chart in helm/fastserve: it makes of them what the renderers for KubeRay write, and what surrounds it
in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.cluster.checks import check_pods, refuse
from fastserve_ray.cluster.pods import node_resources, pod_security, shm_size
from fastserve_ray.cluster.raycluster import RAY_VERSION, start_params
from fastserve_ray.cluster.rayjob import entrypoint
from fastserve_ray.cluster.serve_config import serve_config
from fastserve_ray.spec.kubernetes import KubernetesSpec

if TYPE_CHECKING:
    from fastserve_ray.cluster.app import App
    from fastserve_ray.spec.nodes import NodeTypeSpec


def render(app: App) -> list[dict[str, Any]]:
    """The values that differ from the chart's.

    Raises:
        SpecError: see `checks.check_pods`.
    """
    refuse(check_pods(app, reads_inputs=app.model is None or app.last_stage is not None))
    kubernetes = app.cluster.kubernetes
    head = (app.cluster.available_node_types or {})[str(app.cluster.head_node_type)]
    values: dict[str, Any] = {
        "app": app.text,
        "image": _image(app),
        "rayVersion": RAY_VERSION,
        "rayCluster": {"enabled": False},
        "rayService": _service(app),
        "rayJob": _job(app),
        "head": _node(app, head, offers=app.cluster.head_takes_work),
        "workers": [
            {
                "name": name,
                "replicas": worker.min_workers,
                "minReplicas": worker.min_workers,
                "maxReplicas": app.cluster.most_of(name),
                **_node(app, worker, offers=True),
            }
            for name, worker in app.cluster.worker_types.items()
        ],
        "autoscaling": _autoscaling(app),
        **_fault_tolerance(app),
        **_optional(
            secretEnv=[
                {"name": variable, "secret": secret.name, "key": secret.key or variable}
                for variable, secret in app.cluster.secrets.items()
            ],
            serviceAccountName=kubernetes.service_account,
            cache=kubernetes.cache_claim and {"enabled": True, "existingClaim": kubernetes.cache_claim},
            volumes=[
                {"claim": volume.claim, "path": volume.path, "readOnly": volume.read_only}
                for volume in kubernetes.volumes
            ],
        ),
    }
    if kubernetes.run_as_user != KubernetesSpec().run_as_user:
        values["podSecurityContext"] = pod_security(app)
    return [values]


def _image(app: App) -> dict[str, Any]:
    """A name with a tag (``host:5000/name:tag``) or a digest (``name@sha256:..``), in parts."""
    name, _, digest = app.image.partition("@")
    repository, tag = name, ""
    if ":" in name.rpartition("/")[2]:
        repository, _, tag = name.rpartition(":")
    kubernetes = app.cluster.kubernetes
    return {
        "repository": repository,
        **_optional(tag=tag, digest=digest),
        "pullPolicy": kubernetes.image_pull_policy,
        **_optional(pullSecrets=list(kubernetes.image_pull_secrets)),
    }


def _service(app: App) -> dict[str, Any]:
    is_there = app.spec.serve is not None
    return {"enabled": is_there, **({"serveConfig": serve_config(app)} if is_there else {})}


def _job(app: App) -> dict[str, Any]:
    if app.last_stage is None:
        return {"enabled": False}
    return {
        "enabled": True,
        "entrypoint": entrypoint(app),
        **_optional(runtimeEnv=app.cluster.runtime_env.as_ray()),
    }


def _node(app: App, node: NodeTypeSpec, *, offers: bool) -> dict[str, Any]:
    return {
        "resources": node_resources(node),
        "shm": shm_size(app, node),
        "rayStartParams": start_params(node, offers=offers),
        **_optional(
            image=node.image,
            rayLabels=dict(node.labels),
            nodeSelector=dict(node.node_selector),
            tolerations=[each.model_dump(exclude_none=True) for each in node.tolerations],
        ),
    }


def _autoscaling(app: App) -> dict[str, Any]:
    given = app.cluster.autoscaler
    return {
        "enabled": app.cluster.grows,
        "version": given.version,
        "idleTimeoutSeconds": given.idle_timeout_s,
        "upscalingMode": given.upscaling_mode,
    }


def _fault_tolerance(app: App) -> dict[str, Any]:
    given = app.cluster.fault_tolerance
    if given is None:
        return {}
    redis: dict[str, Any] = {"address": given.redis_address, **_optional(username=given.redis_username)}
    if given.redis_password is not None:
        secret = app.cluster.secrets[given.redis_password]
        redis["passwordSecret"] = {"name": secret.name, "key": secret.key or given.redis_password}
    namespace = _optional(externalStorageNamespace=given.external_storage_namespace)
    return {"gcsFaultTolerance": {"enabled": True, "redis": redis, **namespace}}


def _optional(**values: Any) -> dict[str, Any]:
    """Those that hold something."""
    return {name: value for name, value in values.items() if value}
