"""The order of passes, against that of torch's own schedules."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

from fastserve_ray.training.pipeline.schedules import Schedule, actions


def torch_order(schedule: Schedule, num_stages: int, number: int) -> dict[int, list[tuple[str, int]]]:
    """Passes of each stage in torch 2.13."""
    kind: Any = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[schedule]
    made = SimpleNamespace(_num_stages=num_stages, _n_microbatches=number, pp_group_size=num_stages)
    order = kind._get_pipeline_order(made)
    names = {"F": "forward", "B": "backward"}
    return {
        stage: [
            (names[step.computation_type.value], step.microbatch_index)
            for step in steps
            if step is not None and step.computation_type.value in names
        ]
        for stage, steps in order.items()
    }


@pytest.mark.parametrize(("num_stages", "number"), [(2, 2), (2, 5), (4, 4), (4, 9)])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_the_order_is_that_of_torch(schedule: Schedule, num_stages: int, number: int) -> None:
    """Except that torch's table (not its run) of 1f1b begins the last stage with micro batch 1."""
    for stage, expected in torch_order(schedule, num_stages, number).items():
        found = [
            (action.kind, action.micro)
            for action in actions(schedule, stage=stage, num_stages=num_stages, num_micro_batches=number)
        ]
        turns = [(kind, micro) for micro in range(number) for kind in ("forward", "backward")]
        assert found == (turns if schedule == "1f1b" and stage == num_stages - 1 else expected)


def most_kept(schedule: Schedule, stage: int, number: int) -> int:
    """Micro batches that have gone forward and not yet backward."""
    alive = [0]
    for action in actions(schedule, stage=stage, num_stages=4, num_micro_batches=number):
        alive.append(alive[-1] + (1 if action.kind == "forward" else -1))
    assert alive[-1] == 0
    return max(alive)


@pytest.mark.parametrize("number", [1, 3, 8, 20])
def test_1f1b_keeps_at_most_as_many_micro_batches_as_stages(number: int) -> None:
    """gpipe keeps all. Fewer micro batches than stages go through as well."""
    for stage in range(4):
        assert most_kept("gpipe", stage, number) == number
        assert most_kept("1f1b", stage, number) == min(number, 4 - stage)
