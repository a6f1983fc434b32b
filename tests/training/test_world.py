"""Who is in which group."""

from __future__ import annotations

import pytest

from fastserve_ray.spec import ParallelSpec
from fastserve_ray.training.world import World, rank_lists


def test_tensor_is_fastest_and_pipeline_slowest() -> None:
    data, tensor, pipeline = rank_lists(8, tensor=2, pipeline=2)
    assert tensor == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert data == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert sorted(pipeline) == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4), (8, 1), (1, 8)])
def test_a_rank_is_where_its_groups_have_it(tensor: int, pipeline: int) -> None:
    data_lists, tensor_lists, pipeline_lists = rank_lists(8, tensor, pipeline)
    for rank in range(8):
        world = World(rank, 8, tensor_size=tensor, pipeline_size=pipeline)
        assert world.data_size * tensor * pipeline == 8
        for lists, position in (
            (data_lists, world.data_rank),
            (tensor_lists, world.tensor_rank),
            (pipeline_lists, world.pipeline_rank),
        ):
            own = next(ranks for ranks in lists if rank in ranks)
            assert own[position] == rank


def test_one_rank_needs_no_group() -> None:
    world = World.of(0, 1, "cpu", ParallelSpec())
    assert (world.data_group, world.tensor_group, world.pipeline_group) == (None, None, None)
    assert world.sum(1.0, 2.0) == [1.0, 2.0]


def test_ranks_are_the_product() -> None:
    assert ParallelSpec(workers=3, tensor=2).num_ranks == 6
    assert ParallelSpec(workers=3, pipeline=4).num_ranks == 12
