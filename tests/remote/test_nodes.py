from __future__ import annotations

import pytest

from fastserve_ray.errors import PlacementError
from fastserve_ray.plan.memory import StageMemory
from fastserve_ray.plan.resources import Bundles
from fastserve_ray.plan.stages import PlannedStage, StageName
from fastserve_ray.remote.nodes import Node, are_here, check_nodes, count_places, shortages

HEAD = Node("10.0.0.1", True, cpus=2, gpus=0, memory=8 * 2**30)
WORKER = Node("10.0.0.2", False, cpus=8, gpus=4, memory=32 * 2**30)


def stage(name: StageName, count: int, cpus: float, gpus: float = 0.0) -> PlannedStage:
    return PlannedStage(name, "d" * 64, "none", (), {}, Bundles(count, cpus, gpus), {})


def test_places_are_counted_on_each_node() -> None:
    nodes = [HEAD, WORKER]
    assert count_places([(0, 1, 0)] * 20, nodes) == 10
    assert count_places([(1, 1, 0)] * 20, nodes) == 4
    assert count_places([(0.5, 0.1, 0)] * 20, nodes) == 8
    assert count_places([(0, 1, 5 * 2**30)] * 20, nodes) == 1 + 6
    assert count_places([(0, 1, 0)] * 8 + [(1, 1, 0)] * 2, nodes) == 10, "what needs no GPU leaves room for what does"
    assert count_places([(0, 1, 0)], []) == 0


def test_bundles_that_fit_in_sum_but_on_no_node_are_short() -> None:
    (short,) = shortages([stage("data", 1, 1), stage("train", 2, 6)], [], [HEAD, WORKER])
    assert (short.stage, short.places) == ("train", 1)
    assert str(short) == "train asks for 2 x (6 CPU): the nodes have room for 1"


def test_replicas_of_further_models_count() -> None:
    served = PlannedStage(
        "serve", "d" * 64, "none", (), {}, Bundles(1, 8.0, others=(Bundles(1, 2.0), Bundles(2, 1.0))), {}
    )
    (short,) = shortages([served], [], [HEAD, WORKER])
    assert short.places == 2


def test_memory_of_a_worker_on_a_cpu_counts_and_that_of_a_gpu_does_not() -> None:
    memory = [StageMemory("train", parameters=20 * 2**30), StageMemory("tune", parameters=20 * 2**30)]
    stages = [stage("train", 2, 1), stage("tune", 2, 1, 1)]
    (short,) = shortages(stages, memory, [HEAD, WORKER])
    assert (short.stage, short.places) == ("train", 1)
    assert "with 20 GiB each" in str(short)


def test_the_error_says_what_is_there() -> None:
    nodes = [HEAD, WORKER]
    check_nodes(list(shortages([stage("train", 4, 1, 1)], [], nodes)), nodes)
    with pytest.raises(PlacementError) as caught:
        check_nodes(list(shortages([stage("train", 5, 1, 1)], [], nodes)), nodes)
    assert "train asks for 5 x (1 CPU + 1 GPU): the nodes have room for 4" in str(caught.value)
    assert "10.0.0.1 (head): 2 CPU, 0 GPU, 8 GiB" in str(caught.value)


def test_nodes_elsewhere_are_told_from_this_machine() -> None:
    here = Node("127.0.0.1", True, 1, 0, None)
    assert are_here([here])
    assert not are_here([here, Node("203.0.113.7", False, 1, 0, None)])
    assert not are_here([])
