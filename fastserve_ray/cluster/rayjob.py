"""KubeRay's RayJob: a cluster that trains, compresses and verifies what the file says, publishes it, and ends.

The file lies in a ConfigMap that every pod mounts. A job that failed is tried again on a new cluster, and goes on from
its last checkpoint in storage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.cluster.checks import check_job, check_pods, refuse
from fastserve_ray.cluster.pods import APP_FILE, APP_FOLDER, config_map, metadata, submitter_template
from fastserve_ray.cluster.raycluster import API_VERSION, cluster_spec
from fastserve_ray.cluster.text import to_yaml

if TYPE_CHECKING:
    from fastserve_ray.cluster.app import App

BACKOFF_LIMIT = 2
"""New clusters after a failure."""
KEPT_S = 600
"""How long the cluster stays when the job has ended, for its logs."""


def render(app: App) -> list[dict[str, Any]]:
    """The app's file as a ConfigMap, and the job.

    Raises:
        SpecError: there is nothing to do before serving; or see `checks.check_pods`.
    """
    refuse([*check_job(app), *check_pods(app, reads_inputs=True)])
    env = app.cluster.runtime_env.as_ray()
    job = {
        "apiVersion": API_VERSION,
        "kind": "RayJob",
        "metadata": metadata(app, "train"),
        "spec": {
            "entrypoint": entrypoint(app),
            **({"runtimeEnvYAML": to_yaml(env)} if env else {}),
            "backoffLimit": BACKOFF_LIMIT,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_S,
            "submitterPodTemplate": submitter_template(app),
            "rayClusterSpec": cluster_spec(app, "train"),
        },
    }
    return [config_map(app, "train"), job]


def entrypoint(app: App) -> str:
    """All stages before ``serve``, in the Ray that the job runs in."""
    command = f"fastserve run {APP_FOLDER}/{APP_FILE} --set cluster.address=auto"
    return command if app.spec.serve is None else f"{command} --until {app.last_stage}"
