"""Finds what an earlier try left. Imports no torch: the driver asks before it starts workers.

A stage's checkpoints lie in ``checkpoints/<artifact id>``, beside a file with the digest of all that decides what is
learned, whatever the number of workers. So a run that was stopped and is started again with another ``train.parallel``,
which has another artifact id, finds them too.

Ray Train keeps a record of what it registered and refuses to start when that is torn or names what is gone. Here the
files speak for themselves: a checkpoint counts when all of its parts and its state are there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastserve_ray.artifacts.records import list_runs
from fastserve_ray.training.checkpoint.names import is_complete

if TYPE_CHECKING:
    from fastserve_ray.storage.filesystem import Storage

CHECKPOINTS = "checkpoints"
IDENTITY_FILE = "identity.json"
RAY_RECORD = "checkpoint_manager_snapshot.json"


def step_folder(step: int) -> str:
    """Name of the folder of one checkpoint; names sort by step."""
    return f"step-{step:08d}"


def prepare(storage: Storage, artifact: str, digest: str) -> str | None:
    """Claim ``checkpoints/<artifact>`` for a run that starts, and find the checkpoint to go on from.

    What a kill left half-written goes, and so do older checkpoints and Ray's record, which this run writes anew.

    Args:
        artifact: artifact id of what the stage will publish.
        digest: of all that decides what is learned.

    Returns:
        path of the latest complete checkpoint of the same digest in ``storage``; None when there is none.
    """
    own = f"{CHECKPOINTS}/{artifact}"
    found = _latest(storage, [artifact, *_relatives(storage, artifact, digest)])
    for name in storage.list_folders(own):
        if f"{own}/{name}" != found:
            storage.delete(f"{own}/{name}")
    storage.delete(f"{own}/{RAY_RECORD}")
    storage.write_json(f"{own}/{IDENTITY_FILE}", {"digest": digest})
    return found


def delete_all(storage: Storage, artifact: str, digest: str) -> None:
    """Delete the checkpoints of a stage that has published, and those it went on from."""
    for name in (artifact, *_relatives(storage, artifact, digest)):
        storage.delete(f"{CHECKPOINTS}/{name}")


def _latest(storage: Storage, artifacts: list[str]) -> str | None:
    """Of the highest step; the first folder wins a tie."""
    found: tuple[str, str] | None = None
    for artifact in artifacts:
        folder = f"{CHECKPOINTS}/{artifact}"
        for name in storage.list_folders(folder):
            files = storage.list_files(f"{folder}/{name}", recursive=False)
            is_newer = found is None or name > found[0]
            if is_newer and is_complete([file.path.rpartition("/")[2] for file in files]):
                found = (name, f"{folder}/{name}")
    return None if found is None else found[1]


def _relatives(storage: Storage, artifact: str, digest: str) -> list[str]:
    """Artifact ids of the same digest whose run is over: a live one still needs its checkpoints."""
    busy = _artifacts_of_live_runs(storage)
    return [
        name
        for name in storage.list_folders(CHECKPOINTS)
        if name != artifact and name not in busy and _digest(storage, name) == digest
    ]


def _digest(storage: Storage, artifact: str) -> str | None:
    path = f"{CHECKPOINTS}/{artifact}/{IDENTITY_FILE}"
    if not storage.exists(path):
        return None
    identity = storage.read_json(path)
    return str(identity.get("digest")) if isinstance(identity, dict) else None


def _artifacts_of_live_runs(storage: Storage) -> set[str]:
    """Of other processes on this machine; whether those of other machines live, nobody knows."""
    live = (record for record in list_runs(storage) if record.is_alive and record.process_id != os.getpid())
    return {artifact for record in live for artifact in record.stages.values()}
