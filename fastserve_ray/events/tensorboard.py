"""TensorBoard event files in storage, under ``tensorboard/``; ``tensorboard --logdir`` shows them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.storage.filesystem import Storage

TENSORBOARD = "tensorboard"
_FLUSH_SECONDS = 5


class Board:
    """Writes scalars of one folder; local storage can be watched meanwhile, others get the files at the end.

    Args:
        folder: in storage.
        purge_step: a run that goes on from a checkpoint starts here: what was written of this step and later ones is
            not shown.
    """

    def __init__(self, storage: Storage, folder: str, *, purge_step: int | None = None) -> None:
        from tensorboardX import SummaryWriter

        self._storage = storage
        self._folder = folder
        local = storage.local_path(folder)
        self._temporary = None if local is not None else Path(tempfile.mkdtemp(prefix="fastserve-tensorboard-"))
        self.writer: Any = SummaryWriter(
            str(local or self._temporary),
            flush_secs=_FLUSH_SECONDS,
            write_to_disk=True,
            purge_step=purge_step,
            filename_suffix=f".{purge_step or 0:09d}",  # the name holds whole seconds only, and readers go by its order
        )

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """One point of each metric."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """The file is complete, and in storage."""
        self.writer.close()
        if self._temporary is not None:
            self._storage.upload(self._temporary, self._folder)
            shutil.rmtree(self._temporary, ignore_errors=True)
