"""Serve's applications of a cluster, through its REST API, which takes all of them at once: what is put there replaces
what was put there before. So one is deployed by reading all, changing one, and putting all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import ServeError
from fastserve_ray.serve.causes import FAILED, cause_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fastserve_ray.remote.dashboard import Dashboard

PATH = "/api/serve/applications/"
TIMEOUT_S = 900.0
"""Large models take minutes to read, and a runtime environment takes minutes to install."""
POLL_S = 0.5
Config = dict[str, Any]
"""One application, as ``ray.serve.schema.ServeApplicationSchema`` has it."""


@dataclass(frozen=True)
class DeploymentState:
    """One deployment of an application."""

    name: str
    status: str
    replicas: Mapping[str, int]
    """Their number by state."""
    target: int
    message: str


@dataclass(frozen=True)
class ApplicationState:
    """What Serve says of one application."""

    name: str
    status: str
    route_prefix: str | None
    message: str
    deployments: tuple[DeploymentState, ...]
    config: Config | None
    """As it was put; None for one that a program deployed by ``serve.run``."""

    @property
    def cause(self) -> str:
        """Why it does not run: the replica's own error, where Serve has one."""
        messages = [deployment.message for deployment in self.deployments if deployment.message]
        return cause_of("\n".join(messages) or self.message)

    @property
    def news(self) -> str:
        """What Serve says first; before it the replica's own error, where one did not start and is tried again."""
        messages = [deployment.message for deployment in self.deployments if deployment.message] or [self.message]
        headline, _, more = messages[0].partition("\n")
        return f"{cause_of(more)}\n{headline.removesuffix('. Error:')}" if more else headline


@dataclass(frozen=True)
class ServeState:
    """Serve in one cluster."""

    applications: Mapping[str, ApplicationState]
    http_options: Mapping[str, Any]
    """Empty where Serve does not run."""
    target_capacity: float | None
    url: str | None
    """Of a proxy, as the cluster's own nodes reach it."""


def read_serve(dashboard: Dashboard) -> ServeState:
    """Ask the cluster.

    Raises:
        FastServeError: it cannot be asked.
    """
    found = dashboard.get(PATH)
    options = found.get("http_options") or {} if found.get("controller_info") else {}
    proxies = [proxy for proxy in found.get("proxies", {}).values() if proxy.get("node_ip")]
    url = f"http://{proxies[0]['node_ip']}:{options['port']}" if proxies and "port" in options else None
    return ServeState(
        {name: _application(details) for name, details in found["applications"].items()},
        options,
        found.get("target_capacity"),
        url,
    )


def put_application(dashboard: Dashboard, config: Mapping[str, Any]) -> None:
    """Deploy the applications of a whole Serve config; the others of the cluster stay as they are.

    Raises:
        ServeError: Serve refuses it, for example because another application has the path.
    """
    state = read_serve(dashboard)
    answer = dashboard.put(PATH, merged(state, config))
    if not answer.is_success:
        raise ServeError("Ray Serve refuses the application", value=cause_of(answer.text), key="serve")


def merged(state: ServeState, config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the applications that were put there by others. One that a program deployed is not among them:
    Serve leaves it alone."""
    names = {application["name"] for application in config["applications"]}
    others = [
        application.config
        for name, application in state.applications.items()
        if application.config is not None and name not in names and application.status != "DELETING"
    ]
    kept = {} if state.target_capacity is None else {"target_capacity": state.target_capacity}
    return {**kept, **config, "applications": [*others, *config["applications"]]}


def follow(dashboard: Dashboard, name: str, say: Callable[[str], None], timeout_s: float = TIMEOUT_S) -> ServeState:
    """Wait until the application runs.

    Raises:
        ServeError: it does not start; the message holds the replica's own error.
    """
    deadline = time.monotonic() + timeout_s
    said = ""
    while True:
        state = read_serve(dashboard)
        application = state.applications.get(name)
        if application is None:
            raise ServeError("the application is gone", value=name)
        if application.status == "RUNNING":
            return state
        if application.status in FAILED:
            raise ServeError("the model cannot be served", value=application.status, hint=application.cause)
        if time.monotonic() > deadline:
            raise ServeError(f"no replica was up after {timeout_s:g} s", value=application.cause, key="serve")
        if application.news not in ("", said):
            said = application.news
            say(said)
        time.sleep(POLL_S)


def _application(details: Mapping[str, Any]) -> ApplicationState:
    deployments = tuple(_deployment(item) for item in details["deployments"].values())
    return ApplicationState(
        name=details["name"],
        status=details["status"],
        route_prefix=details["route_prefix"],
        message=details["message"],
        deployments=deployments,
        config=details.get("deployed_app_config"),
    )


def _deployment(details: Mapping[str, Any]) -> DeploymentState:
    replicas: dict[str, int] = {}
    for replica in details["replicas"]:
        replicas[replica["state"]] = replicas.get(replica["state"], 0) + 1
    return DeploymentState(
        details["name"], details["status"], replicas, details.get("target_num_replicas", 0), details["message"]
    )
