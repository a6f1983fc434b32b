"""Which rows a worker sees in which step. Position is a function of the step, so checkpoints hold no data state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastserve_ray.data.order import global_order

Indices = NDArray[np.int64]


class BatchPlan:
    """Row numbers of every global batch, and a worker's share of them.

    Args:
        num_rows: training rows.
        batch_size: rows in a global batch; the last batch of an epoch may be smaller.
        seed: of the order.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        self._num_rows = num_rows
        self._batch_size = batch_size
        self._seed = seed
        self.steps_per_epoch = -(-num_rows // batch_size)
        self._epoch: tuple[int, Indices] | None = None

    def global_batch(self, step: int) -> Indices:
        """Rows of optimizer step ``step`` over all workers."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, global_order(self._num_rows, self._seed, epoch))
        start = position * self._batch_size
        return self._epoch[1][start : start + self._batch_size]

    def micro_batches(self, step: int, *, rank: int, size: int, accumulation: int) -> list[Indices]:
        """The share of worker ``rank``, cut into ``accumulation`` parts; parts of a small last batch may be empty."""
        share = np.array_split(self.global_batch(step), size)[rank]
        return list(np.array_split(share, accumulation))
