"""Which rows a worker sees in which step. Position is a function of the step, so checkpoints hold no data state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastserve_ray.data.order import global_order
from fastserve_ray.training.balance.shares import cut_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastserve_ray.training.balance.shares import Shares


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
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._order_epoch: int | None = None

    def global_batch(self, step: int) -> NDArray[np.int64]:
        """Rows of optimizer step ``step`` (from 0) over all workers."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order_epoch != epoch:
            self._order = global_order(self._num_rows, self._seed, epoch)
            self._order_epoch = epoch
        return self._order[position * self._batch_size : (position + 1) * self._batch_size]

    def micro_batches(
        self, step: int, *, rank: int, size: int, accumulation: int, shares: Shares | None = None
    ) -> list[NDArray[np.int64]]:
        """The share of worker ``rank``, cut into ``accumulation`` parts; parts of a small last batch may be empty.

        Args:
            shares: rows of a whole batch by worker; None: as equal as can be.
        """
        batch = self.global_batch(step)
        parts = np.array_split(batch, size if shares is None else cut_points(len(batch), shares)[1:-1])
        return list(np.array_split(parts[rank], accumulation))
