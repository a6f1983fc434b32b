"""TensorBoard event files of a search, one folder a trial; the step is the optimizer step."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.spec.base import Scalar
    from fastserve_ray.storage.filesystem import Storage
    from fastserve_ray.tune.records import TrialRecord

TENSORBOARD = "tensorboard"


class TrialBoard:
    """Writes one trial's scalars; local storage can be watched while it runs, others get the files at the end.

    Args:
        folder: of the trial in storage; what an earlier try left there is deleted.
    """

    def __init__(self, storage: Storage, folder: str, parameters: Mapping[str, Scalar]) -> None:
        from tensorboardX import SummaryWriter

        storage.delete(folder)
        self._storage = storage
        self._folder = folder
        self._parameters = dict(parameters)
        local = storage.local_path(folder)
        self._temporary = None if local is not None else Path(tempfile.mkdtemp(prefix="fastserve-tensorboard-"))
        self._writer: Any = SummaryWriter(str(local or self._temporary), flush_secs=5, write_to_disk=True)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """One report."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self, record: TrialRecord) -> None:
        """The hyperparameters with the last metrics, for the HPARAMS page; then the file is complete."""
        from tensorboardX.summary import hparams

        for summary in hparams(self._parameters, dict(record.metrics)):
            self._writer.file_writer.add_summary(summary)
        self._writer.close()
        if self._temporary is not None:
            self._storage.upload(self._temporary, self._folder)
            shutil.rmtree(self._temporary, ignore_errors=True)
