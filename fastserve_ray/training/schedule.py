"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.spec import TrainSpec


def learning_rate(train: TrainSpec, step: int, total_steps: int) -> float:
    """The rate of optimizer step ``step`` (from 0): linear warm-up from zero, then the chosen shape down to zero.

    Equal to transformers' ``get_scheduler`` of the same name.
    """
    warmup = math.ceil(train.warmup_ratio * total_steps)
    if step < warmup:
        return train.learning_rate * step / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    if train.lr_scheduler_type == "linear":
        return train.learning_rate * max(0.0, 1.0 - progress)
    if train.lr_scheduler_type == "cosine":
        return train.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return train.learning_rate
