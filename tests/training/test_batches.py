"""Which rows are trained on, in which order, by whom."""

from __future__ import annotations

import numpy as np
import pytest

from fastserve_ray.training.batches import BatchPlan


@pytest.mark.parametrize(("num_rows", "batch_size"), [(50, 8), (48, 8), (5, 8), (1, 1)])
def test_an_epoch_holds_every_row_once(num_rows: int, batch_size: int) -> None:
    plan = BatchPlan(num_rows, batch_size, seed=3)
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        rows = np.concatenate([plan.global_batch(step) for step in steps])
        assert sorted(rows.tolist()) == list(range(num_rows))


def test_epochs_and_seeds_differ_and_steps_may_be_asked_in_any_order() -> None:
    plan, other = BatchPlan(50, 8, seed=3), BatchPlan(50, 8, seed=4)
    first = plan.global_batch(0).tolist()
    assert first != plan.global_batch(7).tolist()
    assert first != other.global_batch(0).tolist()
    assert plan.global_batch(0).tolist() == first == BatchPlan(50, 8, seed=3).global_batch(0).tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_shares_of_the_workers_make_up_the_batch(size: int, accumulation: int) -> None:
    """The last batch has two rows: with more workers some get none."""
    plan = BatchPlan(50, 8, seed=0)
    for step in (0, 6):
        parts = [
            part
            for rank in range(size)
            for part in plan.micro_batches(step, rank=rank, size=size, accumulation=accumulation)
        ]
        assert len(parts) == size * accumulation
        assert np.concatenate(parts).tolist() == plan.global_batch(step).tolist()
