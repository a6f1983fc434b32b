"""What Ray Serve's own processes read from the environment of their Ray; so it is set before Ray starts.

In a Ray that runs already it is for those who start it (``ray start``) to set the same.
"""

from __future__ import annotations

import os

ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "fastserve_ray.serve.proxy:middlewares",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
}
"""The second: Serve starts a proxy anew after three checks that failed, which takes half a minute by its default."""


def set_environment() -> None:
    """For a Ray that this process is about to start; what a user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
