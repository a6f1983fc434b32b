"""What is known of a trial. Finished trials are kept in storage, so that a search that was killed does not run them
again."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fastserve_ray.errors import StorageError
from fastserve_ray.spec.base import Scalar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.storage.filesystem import Storage

TrialStatus = Literal["finished", "stopped", "failed"]


class Report(BaseModel):
    """One evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    metrics: dict[str, float]


class TrialRecord(BaseModel):
    """One trial, from its parameters to its end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: str
    """``trial-000``, ``trial-001``, ... in the order in which they were drawn."""
    parameters: dict[str, Scalar]
    status: TrialStatus
    """finished: trained to its end; stopped: by the scheduler or by patience."""
    steps: int
    """Optimizer steps at the last report."""
    seconds: float
    metrics: dict[str, float] = {}
    """Of the last report."""
    reports: tuple[Report, ...] = ()
    error: str | None = None


def key_of(parameters: Mapping[str, Scalar]) -> str:
    """A name for a set of parameters; training is deterministic, so the same parameters give the same trial."""
    return hashlib.sha256(json.dumps(dict(parameters), sort_keys=True).encode()).hexdigest()[:16]


class TrialStore:
    """The records of one search under ``<folder>/trials``."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = f"{folder}/trials"

    def save(self, record: TrialRecord) -> None:
        """Keep a trial that has ended."""
        self._storage.write_json(f"{self._folder}/{key_of(record.parameters)}.json", record.model_dump(mode="json"))

    def load(self) -> dict[str, TrialRecord]:
        """The kept trials by ``key_of`` their parameters, in the order of their numbers; damaged ones are left out,
        and so run again."""
        found = []
        for file in self._storage.list_files(self._folder, recursive=False):
            try:
                found.append(TrialRecord.model_validate(self._storage.read_json(file.path)))
            except (ValidationError, StorageError):
                self._storage.delete(file.path)
        return {key_of(record.parameters): record for record in sorted(found, key=lambda record: record.trial)}
