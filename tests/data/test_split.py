"""Held-out rows."""

from __future__ import annotations

import numpy as np
import pytest

from fastserve_ray.data.order import global_order
from fastserve_ray.data.split import held_out
from fastserve_ray.errors import DataError


@pytest.mark.parametrize(("num_rows", "fraction", "count"), [(100, 0.1, 10), (2, 0.01, 1), (3, 0.99, 2), (10, 0.25, 2)])
def test_both_parts_have_rows_and_none_is_in_both(num_rows: int, fraction: float, count: int) -> None:
    train, validation = held_out(num_rows, fraction, seed=3)
    assert len(validation) == count
    assert sorted([*train, *validation]) == list(range(num_rows))
    assert np.all(np.diff(train) > 0)


def test_the_draw_follows_the_seed() -> None:
    assert np.array_equal(held_out(50, 0.2, seed=1)[1], held_out(50, 0.2, seed=1)[1])
    assert not np.array_equal(held_out(50, 0.2, seed=1)[1], held_out(50, 0.2, seed=2)[1])


def test_one_row_is_too_few() -> None:
    with pytest.raises(DataError):
        held_out(1, 0.5, seed=0)


def test_each_epoch_has_an_order_of_its_own() -> None:
    first, second = global_order(30, seed=0, epoch=0), global_order(30, seed=0, epoch=1)
    assert sorted(first) == sorted(second) == list(range(30))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, global_order(30, seed=0, epoch=0))
