"""The pod of a Ray node: as little as it may do, under Kubernetes' restricted profile of pod security.

The root is read-only: what libraries write goes to /tmp and /cache. Probes are written out because those that KubeRay
adds by itself need ``wget`` in the image. Ray's agent (port 52365) says whether the raylet lives, and on the head the
GCS; it asks for no token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from fastserve_ray.cluster.names import share_of
from fastserve_ray.serve.environment import ENVIRONMENT

if TYPE_CHECKING:
    from fastserve_ray.cluster.app import App
    from fastserve_ray.spec.nodes import NodeTypeSpec, TolerationSpec

Role = Literal["head", "worker"]
Component = Literal["cluster", "serve", "train"]
"""What the pods are for: a cluster that stays, a RayService, a RayJob."""

CACHE_PATH = "/cache"
APP_FOLDER = "/etc/fastserve"
APP_FILE = "app.yaml"
SERVE_PORT = 8000
SHM_SHARE = 3
"""/dev/shm is a third of a pod's memory: Ray's object store takes 30 %."""
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
SIDE_RESOURCES = {"cpu": "500m", "memory": "512Mi"}
"""Of the autoscaler and of the process that submits a job."""
_HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
_PORTS = {"serve": SERVE_PORT, "metrics": 8080}
_PROBES = {
    "startup": {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 120},
    "readiness": {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 2},
    "liveness": {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 12},
}
"""Ten minutes to start: an image with CUDA is large, and a node may be new."""


def labels(app: App, component: str) -> dict[str, str]:
    """Of every object and pod. Not ``app.kubernetes.io/name``: KubeRay's Services select by it."""
    return {
        "app.kubernetes.io/part-of": "fastserve",
        "app.kubernetes.io/instance": app.name,
        "app.kubernetes.io/component": component,
    }


def metadata(app: App, component: str, name: str | None = None) -> dict[str, Any]:
    """Of an object."""
    namespace = app.cluster.kubernetes.namespace
    return {
        "name": name or app.name,
        **({} if namespace is None else {"namespace": namespace}),
        "labels": labels(app, component),
    }


def config_map(app: App, component: Component) -> dict[str, Any]:
    """The app's file, which every pod mounts."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(app, component, f"{app.name}-app"),
        "data": {APP_FILE: app.text},
    }


def node_template(app: App, name: str, role: Role, component: Component) -> dict[str, Any]:
    """The pod template of a node type.

    Args:
        name: of the type; its memory is known.
    """
    node = (app.cluster.available_node_types or {})[name]
    account = app.cluster.kubernetes.service_account
    return {
        "metadata": {"labels": labels(app, component)},
        "spec": {
            **pod_basics(app),
            # the autoscaler, in the head's pod, asks Kubernetes for pods; nothing else needs the token
            "automountServiceAccountToken": role == "head" and app.cluster.grows,
            **({} if account is None else {"serviceAccountName": account}),
            **({"nodeSelector": dict(node.node_selector)} if node.node_selector else {}),
            **({"tolerations": [_toleration(each) for each in node.tolerations]} if node.tolerations else {}),
            "containers": [_container(app, node, role, component)],
            "volumes": _volumes(app, node),
        },
    }


def submitter_template(app: App) -> dict[str, Any]:
    """The pod that submits a job and follows its log; KubeRay adds its command."""
    return {
        "metadata": {"labels": labels(app, "submitter")},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            **pod_basics(app),
            "containers": [
                {
                    "name": "ray-job-submitter",
                    "image": app.image,
                    "imagePullPolicy": app.cluster.kubernetes.image_pull_policy,
                    "env": [{"name": "HOME", "value": "/tmp"}],
                    "resources": {"limits": SIDE_RESOURCES, "requests": SIDE_RESOURCES},
                    "securityContext": CONTAINER_SECURITY,
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


def pod_security(app: App) -> dict[str, Any]:
    """Of a whole pod."""
    user = app.cluster.kubernetes.run_as_user
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def pod_basics(app: App) -> dict[str, Any]:
    """What all pods share."""
    secrets = app.cluster.kubernetes.image_pull_secrets
    pull = {"imagePullSecrets": [{"name": name} for name in secrets]} if secrets else {}
    return {"securityContext": pod_security(app), **pull}


def node_resources(node: NodeTypeSpec) -> dict[str, str]:
    """Requests and limits of a node."""
    resources = {"cpu": str(node.resources.CPU), "memory": str(node.resources.memory)}
    if node.resources.GPU:
        resources["nvidia.com/gpu"] = str(node.resources.GPU)
    return resources


def shm_size(app: App, node: NodeTypeSpec) -> str:
    """Of /dev/shm."""
    return app.cluster.kubernetes.shm_size or share_of(str(node.resources.memory), SHM_SHARE)


def _container(app: App, node: NodeTypeSpec, role: Role, component: Component) -> dict[str, Any]:
    ports = {**(_HEAD_PORTS if role == "head" else {}), **_PORTS}
    resources = node_resources(node)
    return {
        "name": f"ray-{role}",
        "image": node.image or app.image,
        "imagePullPolicy": app.cluster.kubernetes.image_pull_policy,
        "env": _environment(app),
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "resources": {"limits": resources, "requests": resources},
        "securityContext": CONTAINER_SECURITY,
        **_probes(role, component),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "cache", "mountPath": CACHE_PATH},
            {"name": "app", "mountPath": APP_FOLDER, "readOnly": True},
            *(
                {"name": f"volume-{at}", "mountPath": volume.path, "readOnly": volume.read_only}
                for at, volume in enumerate(app.cluster.kubernetes.volumes)
            ),
        ],
    }


def _environment(app: App) -> list[dict[str, Any]]:
    """Variables of the image's folders and of Serve's processes, and secrets by reference."""
    caches = {"HF_HOME": f"{CACHE_PATH}/huggingface", "FASTSERVE_CACHE": f"{CACHE_PATH}/fastserve"}
    plain = {"HOME": "/tmp", **caches, **ENVIRONMENT}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *(
            {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key or variable}}}
            for variable, secret in app.cluster.secrets.items()
        ),
    ]


def _probes(role: Role, component: Component) -> dict[str, Any]:
    """A worker of a RayService is ready when its Serve proxy is, which is so while it has a replica: Serve's Service
    leaves out the others."""
    node = {"path": "/api/healthz", "port": 52365}
    proxy = {"path": "/-/healthz", "port": SERVE_PORT}
    is_serving = component == "serve" and role == "worker"
    asked = {"startup": node, "readiness": proxy if is_serving else node, "liveness": node}
    return {f"{name}Probe": {"httpGet": asked[name], **times} for name, times in _PROBES.items()}


def _volumes(app: App, node: NodeTypeSpec) -> list[dict[str, Any]]:
    kubernetes = app.cluster.kubernetes
    claim = kubernetes.cache_claim
    cache = {"emptyDir": {}} if claim is None else {"persistentVolumeClaim": {"claimName": claim}}
    return [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm_size(app, node)}},
        {"name": "cache", **cache},
        {"name": "app", "configMap": {"name": f"{app.name}-app"}},
        *(
            {"name": f"volume-{at}", "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only}}
            for at, volume in enumerate(kubernetes.volumes)
        ),
    ]


def _toleration(toleration: TolerationSpec) -> dict[str, str]:
    return {name: value for name, value in toleration.model_dump().items() if value is not None}
