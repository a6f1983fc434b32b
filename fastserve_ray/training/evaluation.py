"""Metrics over the validation rows, shared out over the workers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fastserve_ray.tasks.evaluate import to_device
from fastserve_ray.training.strategies.protocol import MicroBatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastserve_ray.tasks.protocol import Row, Task
    from fastserve_ray.training.strategies.protocol import Strategy
    from fastserve_ray.training.world import World


def evaluate_together(
    strategy: Strategy, task: Task, rows: Sequence[Row], *, world: World, batch_size: int, pad_token_id: int
) -> dict[str, float]:
    """``eval_*`` over all ``rows``, the same on every worker; without rows there are none.

    Every worker takes as many forward passes, since those of a spread model exchange weights or activations.
    """
    if not len(rows):
        return {}
    share = range(world.data_rank, len(rows), world.data_size)
    num_passes = math.ceil(math.ceil(len(rows) / world.data_size) / batch_size)

    def micro_batches() -> Iterator[MicroBatch]:
        for number in range(num_passes):
            chosen = [rows[index] for index in share[number * batch_size : (number + 1) * batch_size]]
            batch = to_device(task.collate(chosen or [rows[0]], pad_token_id), world.device)
            yield MicroBatch(batch, 1.0 if chosen else 0.0)

    sums = strategy.evaluate(micro_batches())
    total, count, correct = world.sum(sums.total, sums.count, sums.correct)
    return task.metrics(total, int(count), int(correct))
