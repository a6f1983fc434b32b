"""A replica's `ColdStart`, with what Ray and the operating system know of its beginning."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import psutil

from fastserve_ray.serve.cold_start import ColdStart

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("ray.serve.cold_start")
logger.setLevel(logging.INFO)  # one line in a replica's life, where Serve's processes log warnings only
CONTROLLER_TIMEOUT_S = 30.0


def begin() -> ColdStart:
    """To be called first in a replica's constructor."""
    start = ColdStart(psutil.Process().create_time(), time.time)
    threading.Thread(target=_ask_controller, args=(start.asked,), daemon=True, name="cold-start").start()
    return start


def finish(start: ColdStart) -> None:
    """A token is here: tell the story once."""
    if start.first_token():
        logger.info(start.line())


def _ask_controller(tell: Callable[[float], None]) -> None:
    """When Serve asked for this actor. It is a detail of the figures: where Serve does not say, they go without."""
    import ray
    from ray import serve
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        me = serve.get_replica_context()
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        details = ray.get(controller.get_serve_instance_details.remote(), timeout=CONTROLLER_TIMEOUT_S)
        replicas = details["applications"][me.app_name]["deployments"][me.deployment]["replicas"]
        tell(next(one["start_time_s"] for one in replicas if one["replica_id"] == me.replica_id.unique_id))
    except Exception as error:  # noqa: BLE001 - nothing that goes wrong here may cost the replica its start
        logger.info("Serve does not say when it asked for this replica: %r", error)
