"""Environments: what Ray Serve's own processes read from that of their Ray, which is set before Ray starts; and the
runtime environment of a run.

In a Ray that runs already it is for those who start it (``ray start``) to set the first.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastserve_ray.remote.inside import JOB_ENV

if TYPE_CHECKING:
    from pydantic import JsonValue

    from fastserve_ray.spec.cluster import ClusterSpec

ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "fastserve_ray.serve.proxy:middlewares",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "20",
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}
"""The second: Serve starts a proxy anew after three checks that failed, which takes half a minute by its default. The
third is for one that has not started yet: a busy machine needs longer for it than three times Serve's 5 s, and its
successor is not faster. The others make what goes through Serve cheaper: its gRPC instead of Ray objects between proxy
and ingress, and one thread less to pass in ingress and replicas, whose event loops do nothing that takes time."""


def set_environment() -> None:
    """For a Ray that this process is about to start; what a user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def runtime_env_of(cluster: ClusterSpec) -> dict[str, JsonValue] | None:
    """For ``ray.init``. A job has the one that it was submitted with, and Ray refuses a second."""
    if JOB_ENV in os.environ:
        return None
    env = cluster.runtime_env.as_ray()
    if cluster.address == "local":
        env = {name: value for name, value in env.items() if name == "env_vars"}
    return env or None
