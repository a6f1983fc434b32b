"""Hands checkpoints to Ray Train."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from fastserve_ray.training.checkpoint.find import CHECKPOINTS, step_folder
from fastserve_ray.training.disk import disk_errors

if TYPE_CHECKING:
    from fastserve_ray.events.log import EventWriter
    from fastserve_ray.storage.filesystem import Storage
    from fastserve_ray.training.checkpoint.slices import Snapshot


class CheckpointReport:
    """Writes a worker's files straight to storage, meets the other workers in Ray's barrier and reports. Ray counts a
    checkpoint when all have: one that any worker did not write is never gone on from. For a ``BackgroundWriter``.

    Args:
        storage: that of the run.
        events: where every checkpoint is noted with its size and seconds; None: nowhere.
        stage: name under which events are written.
    """

    def __init__(self, storage: Storage, events: EventWriter | None, stage: str) -> None:
        self._storage = storage
        self._events = events
        self._stage = stage

    def __call__(self, step: int, snapshot: Snapshot) -> None:
        import ray.train

        started, context = perf_counter(), ray.train.get_context()
        folder = f"{CHECKPOINTS}/{context.get_experiment_name()}/{step_folder(step)}"
        with disk_errors(f"the checkpoint of step {step}"):
            snapshot.write(lambda name: self._storage.open_output(f"{folder}/{name}"))
        ray.train.report(
            {"step": step},
            checkpoint=ray.train.Checkpoint(f"{self._storage.root}/{folder}", context.get_storage().storage_filesystem),
            checkpoint_dir_name=step_folder(step),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )
        if self._events is not None:
            seconds, megabytes = perf_counter() - started, snapshot.num_bytes / 2**20
            self._events.emit("checkpoint_written", self._stage, step=step, seconds=seconds, megabytes=megabytes)
