"""What a run leaves in storage so that others can find what it made: ``runs/<run id>/run.json``."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from fastserve_ray.errors import StorageError

if TYPE_CHECKING:
    from fastserve_ray.storage.filesystem import Storage

RUNS = "runs"


class RunRecord(BaseModel):
    """One execution of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    """``<name>-<UTC time>-<4 hex digits>``; the folder's name under ``runs/``."""
    name: str
    """``name`` of the spec."""
    created: str
    """UTC time, ISO 8601."""
    stages: dict[str, str]
    """Artifact id by stage, in the order of the plan; whether it is published, the registry knows."""
    process_id: int
    host: str
    fastserve_version: str

    @property
    def is_alive(self) -> bool | None:
        """Whether its process is there; None for one of another machine."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.process_id, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def write_run(storage: Storage, record: RunRecord) -> None:
    """Write the record of a run that starts."""
    storage.write_bytes(f"{RUNS}/{record.run_id}/run.json", record.model_dump_json(indent=2).encode())


def read_run(storage: Storage, run_id: str) -> RunRecord:
    """The record of one run.

    Raises:
        StorageError: there is none, or it is damaged.
    """
    path = f"{RUNS}/{run_id}/run.json"
    try:
        return RunRecord.model_validate_json(storage.read_bytes(path))
    except ValidationError as error:
        raise StorageError(
            f"{storage.where(path)} is not a run's record",
            value=str(error.errors()[0]["msg"]),
            key="storage",
            hint="it is damaged or of another version; delete the run's folder",
        ) from error


def list_runs(storage: Storage, name: str | None = None) -> list[RunRecord]:
    """Records of all runs (of ``name``, when given), the oldest first; folders without a record are left out."""
    run_ids = (run_id for run_id in storage.list_folders(RUNS) if storage.exists(f"{RUNS}/{run_id}/run.json"))
    records = (read_run(storage, run_id) for run_id in run_ids)
    return sorted(
        (record for record in records if name is None or record.name == name),
        key=lambda record: (record.created, record.run_id),
    )
