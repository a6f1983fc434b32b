"""Metrics of a model over rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fastserve_ray.errors import DataError
from fastserve_ray.events.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastserve_ray.tasks.protocol import Row, Task


@dataclass
class Sums:
    """What the metrics are made of; sums over batches, workers and splits add up."""

    total: float = 0.0
    count: int = 0
    correct: int = 0


def to_device(batch: Mapping[str, torch.Tensor], device: str | torch.device) -> dict[str, torch.Tensor]:
    """The same batch on ``device``."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def accumulate(
    model: torch.nn.Module,
    task: Task,
    rows: Sequence[Row],
    *,
    batch_size: int,
    pad_token_id: int,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> Sums:
    """Sums of loss, count and correct answers over ``rows``; the model is left in the mode it had."""
    sums = Sums()
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                batch_rows = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
                result = task.loss(model, to_device(task.collate(batch_rows, pad_token_id), device))
                sums.total += float(result.total)
                sums.count += int(result.count)
                sums.correct += int(result.correct)
                progress(step=min(start + batch_size, len(rows)), total=len(rows))
    finally:
        model.train(was_training)
    return sums


def evaluate(
    model: torch.nn.Module,
    task: Task,
    rows: Sequence[Row],
    *,
    batch_size: int,
    pad_token_id: int,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> dict[str, float]:
    """The task's ``eval_*`` metrics over ``rows``.

    Raises:
        DataError: there is no row.
    """
    if not len(rows):
        raise DataError("no rows to evaluate on", key="data.validation")
    sums = accumulate(
        model, task, rows, batch_size=batch_size, pad_token_id=pad_token_id, device=device, progress=progress
    )
    return task.metrics(sums.total, sums.count, sums.correct)
