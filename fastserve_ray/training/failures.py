"""What can go wrong in the loop, as errors that say what to change."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from fastserve_ray.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec import TrainSpec


class DivergedError(TrainingError):
    """The loss is no longer a number. All workers find it in the same step; trying again finds it again."""


def diverged(step: int, total_steps: int, loss: float, learning_rate: float) -> DivergedError:
    """The loss of step ``step`` (from 1) is no longer a number."""
    return DivergedError(
        f"the loss became {loss} in step {step} of {total_steps}",
        value=f"learning rate {learning_rate:.3g}",
        allowed="a finite loss",
        key="train.learning_rate",
        hint="try a tenth of it, a longer train.warmup_ratio, or train.max_grad_norm: 1.0",
    )


@contextmanager
def memory_errors(train: TrainSpec) -> Iterator[None]:
    """Turn what torch raises when memory ends into a TrainingError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(train) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise _out_of_memory(train) from error


def _out_of_memory(train: TrainSpec) -> TrainingError:
    is_given = train.micro_batch_size is not None
    return TrainingError(
        "a worker ran out of memory",
        value=f"{train.rows_per_pass} sequences in one forward pass",
        key="train.micro_batch_size" if is_given else "train.gradient_accumulation_steps",
        hint=f"{'halve' if is_given else 'double'} it (the result stays the same), "
        "set train.gradient_checkpointing: true, or train.parallel.zero: 3",
    )
