"""The order in which rows are trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def global_order(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of the row numbers; the same whatever the number of workers."""
    return np.random.default_rng([seed, epoch]).permutation(num_rows).astype(np.int64)
