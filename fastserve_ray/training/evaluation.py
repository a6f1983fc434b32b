"""Metrics over the validation rows, shared out over the workers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from fastserve_ray.tasks.evaluate import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.tasks.protocol import Row, Task
    from fastserve_ray.training.world import World


def evaluate_together(
    model: torch.nn.Module, task: Task, rows: Sequence[Row], *, world: World, batch_size: int, pad_token_id: int
) -> dict[str, float]:
    """``eval_*`` over all ``rows``, the same on every worker; without rows there are none.

    Every worker takes as many forward passes, since those of ZeRO-3 exchange weights. The model must be in evaluation
    mode.
    """
    if not len(rows):
        return {}
    share = range(world.rank, len(rows), world.size)
    num_passes = math.ceil(math.ceil(len(rows) / world.size) / batch_size)
    sums = [0.0, 0.0, 0.0]
    with torch.no_grad():
        for number in range(num_passes):
            chosen = [rows[index] for index in share[number * batch_size : (number + 1) * batch_size]]
            batch = to_device(task.collate(chosen or [rows[0]], pad_token_id), world.device)
            result = task.loss(model, batch)
            if chosen:
                found = (float(result.total), float(result.count), float(result.correct))
                sums = [before + new for before, new in zip(sums, found, strict=True)]
    total, count, correct = world.sum(*sums)
    return task.metrics(total, int(count), int(correct))
