"""Quality after compression, for searches over ``compress.*``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.compress.table import apply_step
from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.tasks.evaluate import evaluate
from fastserve_ray.tasks.table import load_task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from fastserve_ray.spec import CompressStep


def compressed_metrics(
    model: nn.Module, steps: Sequence[CompressStep], *, task: str, dataset: Path, batch_size: int
) -> dict[str, float]:
    """``eval_*`` over the validation rows of ``model`` after ``steps``, which change it in place, on the CPU.

    Raises:
        CompressionError: a step does not fit the model.
    """
    prepared = PreparedDataset.open(dataset)
    model = model.to("cpu").eval()
    for step in steps:
        apply_step(model, step)
    return evaluate(
        model,
        load_task(task),
        prepared.validation,
        batch_size=batch_size,
        pad_token_id=prepared.info.pad_token_id,
    )
