"""Deploying a version of an application, and keeping what was there before."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import ServeError
from fastserve_ray.remote.applications import follow, put_application, read_serve
from fastserve_ray.serve.causes import FAILED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fastserve_ray.remote.applications import ApplicationState, ServeState
    from fastserve_ray.remote.dashboard import Dashboard
    from fastserve_ray.remote.history import History, Version


def deploy_version(dashboard: Dashboard, history: History, config: Mapping[str, Any]) -> Version:
    """Hand a configuration of one application to the cluster; returns before it runs.

    What runs there now can be gone back to, whoever deployed it.

    Raises:
        ServeError: Serve refuses it.
    """
    current = read_serve(dashboard).applications.get(config["applications"][0]["name"])
    if current is not None and current.config is not None:
        settle(history, current)
        if current.status == "RUNNING" and not any(version.is_like(current.config) for version in history.versions()):
            history.add({**config, "applications": [current.config]}, "found")
    put_application(dashboard, config)
    return history.add(config, "deploying")


def finish_version(dashboard: Dashboard, history: History, version: Version, say: Callable[[str], None]) -> ServeState:
    """Wait until it runs, and record how it ended.

    Raises:
        ServeError: it does not start; the message holds the replica's own error. The version before it still answers,
            unless there was none.
    """
    try:
        state = follow(dashboard, version.application["name"], say)
    except ServeError:
        history.write(dataclasses.replace(version, outcome="failed"))
        raise
    history.write(dataclasses.replace(version, outcome="running"))
    return state


def settle(history: History, current: ApplicationState) -> None:
    """Record what has become of a version that nobody waited for."""
    for version in history.versions()[-1:]:
        if version.outcome == "deploying" and version.is_like(current.config):
            if current.status == "RUNNING":
                history.write(dataclasses.replace(version, outcome="running"))
            elif current.status in FAILED:
                history.write(dataclasses.replace(version, outcome="failed"))
