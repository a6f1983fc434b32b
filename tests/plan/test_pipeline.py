"""Layers shared out over stages."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from fastserve_ray.plan.pipeline import StageSize, share_out, stage_states
from fastserve_ray.spec import TrainSpec


def dearest(stages: list[list[float]], first: float, last: float) -> float:
    costs = [sum(stage) for stage in stages]
    costs[0] += first
    costs[-1] += last
    return max(costs)


@pytest.mark.parametrize("num_stages", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_cut_is_better(num_stages: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    layers = random.uniform(0.5, 3.0, 8).tolist()
    first, last = random.uniform(0, 6, 2).tolist()
    found = share_out(layers, num_stages, first=first, last=last)
    assert [number for stage in found for number in stage] == list(range(8))
    assert all(len(stage) for stage in found)
    every = []
    for cuts in combinations(range(1, 8), num_stages - 1):
        edges = [0, *cuts, 8]
        every.append(dearest([layers[a:b] for a, b in pairwise(edges)], first, last))
    assert dearest([[layers[number] for number in stage] for stage in found], first, last) == pytest.approx(min(every))


def test_embeddings_and_head_take_the_place_of_layers() -> None:
    assert share_out([1.0] * 8, 2, first=2.0, last=0.0) == (range(3), range(3, 8))
    assert share_out([1.0] * 8, 2, first=3.0, last=5.0) == (range(5), range(5, 8))


def test_zero_1_leaves_the_largest_tensor_whole() -> None:
    """Two workers share out 1000 parameters: 500 each, or 900 and 100."""
    train = TrainSpec.model_validate(
        {"batch_size": 8, "max_steps": 1, "parallel": {"pipeline": 2, "workers": 2, "zero": 1}}
    )
    assert stage_states(train, StageSize(1, 1000, 300)).optimizer == 8 * 500
    assert stage_states(train, StageSize(1, 1000, 900)).optimizer == 8 * 900
