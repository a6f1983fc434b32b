"""Ray Serve's configuration: what ``serve deploy``, Serve's REST API and a RayService take.

It names the function that builds the application in the cluster (`serve.builder.build`), with the whole file as its
argument: the application is the very one that ``fastserve serve`` runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.cluster.checks import check_absolute, check_serve, check_working_dir, refuse
from fastserve_ray.cluster.pods import SERVE_PORT

if TYPE_CHECKING:
    from fastserve_ray.cluster.app import App

IMPORT_PATH = "fastserve_ray.serve.builder:build"
EVERY_INTERFACE = "0.0.0.0"
QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""The metrics count requests; a line for each would cost as much as a token."""


def render(app: App) -> list[dict[str, Any]]:
    """The configuration.

    Raises:
        SpecError: the file serves nothing, or names what nodes cannot see.
    """
    refuse([*check_serve(app), *check_working_dir(app), *check_absolute(app)])
    serve = app.spec.serve
    assert serve is not None, "checked"
    host = serve.host if "host" in serve.model_fields_set else EVERY_INTERFACE
    return [serve_config(app, host, serve.port or SERVE_PORT)]


def serve_config(app: App, host: str = EVERY_INTERFACE, port: int = SERVE_PORT) -> dict[str, Any]:
    """The configuration of an app that serves something.

    Args:
        host, port: of the proxies on every node that has a replica.
    """
    serve = app.spec.serve
    assert serve is not None, "checked"
    env = app.cluster.runtime_env.as_ray()
    model = {} if app.model is None else {"model": app.model}
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "logging_config": QUIET,
        "applications": [
            {
                "name": serve.model_name or app.spec.name,
                "route_prefix": serve.route_prefix,
                "import_path": IMPORT_PATH,
                **({"runtime_env": env} if env else {}),
                "args": {"app": app.data, **model},
                "logging_config": QUIET,
            }
        ],
    }
