"""The scalars of a training run for TensorBoard, under ``tensorboard/<artifact id>`` in storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.events.tensorboard import TENSORBOARD, Board

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.events.progress import Progress
    from fastserve_ray.storage.filesystem import Storage


class TrainingBoard:
    """A Progress that writes the numbers of each call as points, and hands the call on.

    The file begins with the first numbers: a run that goes on from a checkpoint writes one more, and TensorBoard drops
    what the run before it wrote of the same steps.

    Args:
        artifact: id of what is trained.
        progress: what else listens.
    """

    def __init__(self, storage: Storage, artifact: str, progress: Progress) -> None:
        self._storage = storage
        self._folder = f"{TENSORBOARD}/{artifact}"
        self._progress = progress
        self._board: Board | None = None

    def __call__(self, *, step: int, total: int | None, **fields: float | str | None) -> None:
        numbers = {f"train/{name}": value for name, value in fields.items() if isinstance(value, int | float)}
        if numbers:
            self.add(step, numbers)
        self._progress(step=step, total=total, **fields)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of an evaluation."""
        self.add(step, {f"eval/{name}": value for name, value in metrics.items() if name.startswith("eval_")})

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Points of step ``step``, by full name."""
        if self._board is None:
            self._board = Board(self._storage, self._folder, purge_step=step)
        self._board.add(step, numbers)

    def close(self) -> None:
        """The file is complete, and in storage."""
        if self._board is not None:
            self._board.close()
