"""A process that Ray itself has started: the driver of a job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.plan.inputs import local_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.spec.run import RunSpec

JOB_ENV = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray's job manager for the command that it starts, beside RAY_ADDRESS."""


def is_job(env: Mapping[str, str] | None = None) -> bool:
    """Whether this process is the command of a Ray job."""
    env = os.environ if env is None else env
    return JOB_ENV in env and bool(env.get("RAY_ADDRESS"))


def joined(spec: RunSpec) -> RunSpec:
    """``spec`` with the Ray that runs the job, whatever the file says: an embedded one would be a second Ray on the
    same processors, and an address would submit the job again."""
    cluster = spec.cluster.model_copy(
        update={"address": "auto", "num_cpus": None, "num_gpus": None, "object_store_memory_mb": None}
    )
    return spec.model_copy(update={"cluster": cluster})


def notes(spec: RunSpec) -> list[str]:
    """What a user should know of a spec that runs as a job.

    Args:
        spec: as the file has it.
    """
    lines = []
    if spec.cluster.address != "auto":
        lines.append(f"this is a Ray job: it runs in the Ray that started it (cluster.address: {spec.cluster.address})")
    path = local_path(spec.storage)
    if path is not None and not Path(path).expanduser().is_absolute():
        lines.append(
            f"storage {spec.storage} is in the job's own folder, which Ray deletes afterwards, and which no other node "
            "sees; set storage to a place that all nodes see"
        )
    return lines
