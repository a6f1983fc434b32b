"""KubeRay's RayService: a cluster that serves what has been made before, and is replaced without a gap.

The model comes from storage that pods see: the artifact that ``--model`` names, or the one that the file's own run has
published and verified there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.cluster.checks import check_pods, check_serve, refuse
from fastserve_ray.cluster.pods import config_map, metadata
from fastserve_ray.cluster.raycluster import API_VERSION, cluster_spec
from fastserve_ray.cluster.serve_config import serve_config
from fastserve_ray.cluster.text import to_yaml

if TYPE_CHECKING:
    from fastserve_ray.cluster.app import App

DELETION_DELAY_S = 60
"""How long the old cluster finishes what it has begun."""
UNHEALTHY_SERVICE_S = 900
"""A new cluster that does not answer by then is given up: machines start, images and models are fetched."""
UNHEALTHY_DEPLOYMENT_S = 600


def render(app: App) -> list[dict[str, Any]]:
    """The app's file as a ConfigMap, and the service.

    Raises:
        SpecError: the file serves nothing; or see `checks.check_pods`.
    """
    refuse([*check_serve(app), *check_pods(app, reads_inputs=app.model is None)])
    service = {
        "apiVersion": API_VERSION,
        "kind": "RayService",
        "metadata": metadata(app, "serve"),
        "spec": {
            "serviceUnhealthySecondThreshold": UNHEALTHY_SERVICE_S,
            "deploymentUnhealthySecondThreshold": UNHEALTHY_DEPLOYMENT_S,
            "rayClusterDeletionDelaySeconds": DELETION_DELAY_S,
            "upgradeStrategy": {"type": "NewCluster"},
            "serveConfigV2": to_yaml(serve_config(app)),
            "rayClusterConfig": cluster_spec(app, "serve"),
        },
    }
    return [config_map(app, "serve"), service]
