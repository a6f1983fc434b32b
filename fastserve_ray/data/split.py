"""Which rows are held out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastserve_ray.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STREAM = 1
"""Keeps this draw apart from the order of rows, which is drawn from the same seed."""


def held_out(num_rows: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers for training and for validation, both ascending: at least one each.

    Whole documents or rows are drawn, before any packing, so that no document is in both.

    Raises:
        DataError: fewer than two rows.
    """
    if num_rows < 2:
        raise DataError(
            "one row cannot be split",
            value=f"{num_rows} row",
            allowed="two rows or more; in plain text, blank lines separate documents",
            key="data.validation",
            hint="give validation a path of its own",
        )
    count = min(max(1, round(num_rows * fraction)), num_rows - 1)
    drawn = np.random.default_rng([seed, _STREAM]).permutation(num_rows)[:count]
    is_held_out: NDArray[np.bool_] = np.zeros(num_rows, dtype=bool)
    is_held_out[drawn] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
