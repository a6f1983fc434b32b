"""Learning rates against those of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from fastserve_ray.training.schedule import learning_rate
from tests.training.tiny import train_spec


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("warmup_ratio", "num_warmup"), [(0.0, 0), (0.1, 3), (0.5, 12)])
def test_rates_are_those_of_transformers(shape: str, warmup_ratio: float, num_warmup: int) -> None:
    """24 steps; a warm-up of 2.4 steps is rounded up, as transformers' Trainer does it."""
    train = train_spec(lr_scheduler_type=shape, warmup_ratio=warmup_ratio, learning_rate=3e-4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=train.learning_rate)
    name = "constant_with_warmup" if shape == "constant" else shape
    scheduler = get_scheduler(name, optimizer, num_warmup, 24)
    for step in range(24):
        assert learning_rate(train, step, 24) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()
