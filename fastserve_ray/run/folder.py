"""The folder of a run in storage: ``run.json``, ``spec.yaml``, ``plan.json``; events and errors join them."""

from __future__ import annotations

import os
import secrets
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fastserve_ray import __version__
from fastserve_ray.artifacts.records import RunRecord, write_run

if TYPE_CHECKING:
    from fastserve_ray.plan.stages import Plan
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.storage.filesystem import Storage


def new_record(spec: RunSpec, plan: Plan) -> RunRecord:
    """The record of a run that starts now."""
    now = datetime.now(UTC)
    return RunRecord(
        run_id=f"{spec.name}-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}",
        name=spec.name,
        created=now.isoformat(),
        stages={stage.name: stage.artifact_id for stage in plan.stages if stage.name != "serve"},
        process_id=os.getpid(),
        host=socket.gethostname(),
        fastserve_version=__version__,
    )


def write_run_folder(storage: Storage, record: RunRecord, spec_text: str, plan: Plan) -> None:
    """Spec and plan first, the record last: what lists runs looks for the record."""
    folder = f"runs/{record.run_id}"
    storage.write_bytes(f"{folder}/spec.yaml", spec_text.encode())
    storage.write_json(
        f"{folder}/plan.json",
        [
            {
                "name": stage.name,
                "digest": stage.digest,
                "artifact": stage.artifact_id,
                "inputs": list(stage.inputs),
                "settings": dict(stage.settings),
                "resources": str(stage.resources),
            }
            for stage in plan.stages
        ],
    )
    write_run(storage, record)
