"""Deploy models and wait until they answer."""

from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from fastserve_ray.errors import ServeError
from fastserve_ray.serve.app import QUIET, ServeTarget, build_app
from fastserve_ray.serve.auth.access import access_of
from fastserve_ray.serve.causes import FAILED, cause_of, is_ours
from fastserve_ray.serve.client import Sample, is_ready, sample_request
from fastserve_ray.serve.quota.deployment import forget_state
from fastserve_ray.serve.source import ModelSource
from fastserve_ray.serve.start import check_placement, ensure_ray, ensure_serve, stop_serve
from fastserve_ray.serve.targets import all_targets, check_room, surge_percent, with_version

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from fastserve_ray.serve.auth.access import Access
    from fastserve_ray.spec.cluster import ClusterSpec
    from fastserve_ray.spec.model import TaskName
    from fastserve_ray.spec.serve import ServeSpec

START_TIMEOUT_S = 600.0
"""A replica that is not up after this time counts as failed; large models take minutes to read."""
POLL_S = 0.1
CONTENTS_TIMEOUT_S = 10.0
WATCH_S = 2.0
"""How often `ServedApp.wait` looks at the application."""
Contents = tuple[tuple[ServeTarget, ...], "Access"]
"""What an application is built from."""


@dataclass
class ServedApp:
    """A running application."""

    name: str
    url: str
    """Of the application, without a slash at the end."""
    task: TaskName
    model_name: str
    owns_serve: bool
    owns_ray: bool

    def sample(self, prompt: str | None = None) -> Sample:
        """A request to try it with."""
        return sample_request(self.task, self.model_name, prompt)

    def wait(self) -> None:
        """Block until Ctrl-C or SIGTERM, which return normally.

        Raises:
            ServeError: the application was deleted, or its replicas do not come back.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own handler leaves processes behind
        try:
            while True:
                time.sleep(WATCH_S)
                state = _state(self.name)
                if state.status is None or (state.status == "DEPLOY_FAILED" and not is_ready(f"{self.url}/ready")):
                    raise ServeError("the application has failed", hint=state.cause)
        except KeyboardInterrupt:
            return

    def shutdown(self) -> None:
        """Stop serving: requests in flight are finished first. Stops Ray and Serve only if `deploy` started them."""
        if not ray.is_initialized():
            return
        with _quiet_serve():
            if self.owns_serve:
                stop_serve()
            else:
                serve.delete(self.name)
        if self.owns_ray:
            ray.shutdown()


def deploy(
    model: str | Path,
    task: TaskName,
    model_name: str,
    spec: ServeSpec,
    storage: str | None = None,
    *,
    revision: str | None = None,
    cluster: ClusterSpec | None = None,
    on_status: Callable[[str], None] | None = None,
) -> ServedApp:
    """Serve one model; returns when it answers requests.

    Works in the Ray that this process is connected to, or starts an embedded one as ``cluster`` says. An application of
    the same name that runs there is replaced: its replicas go on until the new ones are loaded, and finish what they
    have begun. If the new ones do not start, the old ones go on.

    Args:
        model: a model folder, a hub id, or ``artifact:ID`` of ``storage``.
        revision: branch, tag or commit of a hub id.
        model_name: its name in ``/v1/models``, unless the spec gives one; also the application's name.
        on_status: called with a few words whenever the start enters another phase.

    Raises:
        SpecError: the model cannot be served over so many shards; nothing was started.
        PlacementError: a replica does not fit on any node; nothing was deployed.
        SpecError: the file of API keys is wrong.
        UnknownNameError: ``serve.application.kind`` cannot be imported.
        ServeError: the application does not take its settings, the port is taken, or a replica does not start; the
            message holds the replica's own error.
    """
    say = on_status or (lambda _: None)
    access = access_of(spec)
    name = spec.model_name or model_name
    targets = all_targets(ServeTarget(ModelSource(str(model), storage, revision), task, name, spec), access)
    owns_ray = False
    owns_serve = False
    old: Contents | None = None
    try:
        owns_ray = ensure_ray(cluster, spec, say)
        if cluster is None or not cluster.may_grow:
            for target in targets:
                check_placement(target.spec)
            check_room(targets)
        say("starting Ray Serve")
        with _quiet_serve():
            url, owns_serve = ensure_serve(spec)
            say("loading the model")
            old = _contents(name)
            before = _state(name)
            if before.status is None:
                forget_state(name)
            if before.status in (None, "RUNNING"):  # after a failure all begin anew
                targets = [with_version(target) for target in targets]
            _run(targets, access)
        _wait(name, url, say, before.messages)
    except BaseException:
        if old is None:
            _clean_up(name, owns_serve=owns_serve, owns_ray=owns_ray)
        else:
            _run(*old)
        raise
    return ServedApp(name, url, task, name, owns_serve, owns_ray)


def _run(targets: Sequence[ServeTarget], access: Access) -> None:
    """Hand the application to Serve's controller, without waiting for its replicas. It has the first target's name.

    Raises:
        ServeError: Serve refuses it, for example because another application has its path.
    """
    application = serve.RunTarget(
        build_app(targets, access, surge_percent=surge_percent(targets)),
        name=targets[0].name,
        route_prefix=targets[0].spec.route_prefix,
        logging_config=LoggingConfig(**QUIET),
    )
    try:
        serve.run_many([application], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    except (RayError, RayServeException, ValueError) as error:
        raise ServeError(
            "Ray Serve refuses the application", value=cause_of(str(error)), key="serve.route_prefix"
        ) from error


def _contents(name: str) -> Contents | None:
    """What the application that runs was built from; None where there is none that could tell."""
    if _state(name).status is None:
        return None
    try:
        found: Contents = serve.get_app_handle(name).contents.remote().result(timeout_s=CONTENTS_TIMEOUT_S)
    except (RayError, RayServeException, TimeoutError):
        return None
    return found


def _wait(name: str, url: str, say: Callable[[str], None], known: Collection[str]) -> None:
    """Until the application's replicas are up and its address answers; tells what Serve says of a slow start.

    Serve tries again what did not start, since its node may have been lost. A model that does not load once does not
    load twice: that is waited for only once.

    Args:
        known: what Serve said before, of another version.

    Raises:
        ServeError: a replica failed, or the time is over.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    said = ""
    while True:
        state = _state(name)
        if state.status in FAILED or any(is_ours(message) for message in state.messages if message not in known):
            raise ServeError("the model cannot be served", hint=state.cause)
        if state.status == "RUNNING" and is_ready(f"{url}/ready"):
            return
        if time.monotonic() > deadline:
            raise ServeError(f"no replica was up after {START_TIMEOUT_S:g} s", value=state.cause, key="serve")
        headline = state.messages[0].partition("\n")[0]
        if headline not in ("", said):
            say(headline)
            said = headline
        time.sleep(POLL_S)


class _State(NamedTuple):
    """Serve's word for the application's state, None when it is gone, and what it says of its deployments."""

    status: str | None
    messages: tuple[str, ...]
    """At least one."""

    @property
    def cause(self) -> str:
        return cause_of("\n".join(self.messages))


def _state(name: str) -> _State:
    found = serve.status().applications.get(name)
    if found is None:
        return _State(None, ("the application is gone",))
    messages = tuple(deployment.message for deployment in found.deployments.values() if deployment.message)
    return _State(str(found.status.value), messages or (found.message,))


def _clean_up(name: str, *, owns_serve: bool, owns_ray: bool) -> None:
    """Leave Ray as it was found after a deployment that failed."""
    if not ray.is_initialized():
        return
    if owns_ray:
        ray.shutdown()
    elif owns_serve:
        stop_serve()
    elif _state(name).status in (*FAILED, "DEPLOYING"):
        serve.delete(name)


@contextmanager
def _quiet_serve() -> Iterator[None]:
    """Serve's client tells each step on the driver's stderr; `on_status` is what users see instead."""
    logger = logging.getLogger("ray.serve")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
