"""Writes checkpoints while training goes on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.training.checkpoint.slices import Snapshot


class BackgroundWriter:
    """Use as ``Hooks.on_checkpoint``, and ``close`` it when training is over. One checkpoint is in flight at a time;
    the copy of the state is freed when it is written.

    Args:
        write: writes a checkpoint of a step; runs in a thread.
    """

    def __init__(self, write: Callable[[int, Snapshot], None]) -> None:
        self._write = write
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __call__(self, step: int, snapshot: Snapshot) -> None:
        """Start to write; waits while an earlier checkpoint is on its way.

        Raises:
            StorageError: the earlier one could not be written.
        """
        self.close()
        name = f"checkpoint-{step}"
        self._thread = threading.Thread(target=self._run, args=(step, snapshot), name=name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what the thread met."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Wait until what was begun is written.

        Raises:
            StorageError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _run(self, step: int, snapshot: Snapshot) -> None:
        try:
            self._write(step, snapshot)
        except BaseException as error:  # noqa: BLE001 - raised again in the training thread
            self._error = error
