"""TensorBoard event files of a search, one folder a trial; the step is the optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.events.tensorboard import Board

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.spec.base import Scalar
    from fastserve_ray.storage.filesystem import Storage
    from fastserve_ray.tune.records import TrialRecord


class TrialBoard(Board):
    """Writes one trial's scalars.

    Args:
        folder: of the trial in storage; what an earlier try left there is deleted.
    """

    def __init__(self, storage: Storage, folder: str, parameters: Mapping[str, Scalar]) -> None:
        storage.delete(folder)
        super().__init__(storage, folder)
        self._parameters = dict(parameters)

    def finish(self, record: TrialRecord) -> None:
        """The hyperparameters with the last metrics, for the HPARAMS page; then the file is complete."""
        from tensorboardX.summary import hparams

        for summary in hparams(self._parameters, dict(record.metrics)):
            self.writer.file_writer.add_summary(summary)
        self.close()
