"""What the loop tells the outside, and what it may be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.events.progress import Progress, silent

if TYPE_CHECKING:
    import torch


def go_on(step: int, metrics: dict[str, float]) -> bool:
    """An evaluation that nobody waits for."""
    return False


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the training loop; every worker gets them, and must answer alike where said."""

    progress: Progress = silent
    """After every ``logging_steps``."""
    on_step: Callable[[int, float], None] | None = None
    """After every step: its number from 1 and the mean loss over the global batch."""
    on_evaluate: Callable[[int, dict[str, float]], bool] = go_on
    """After an evaluation; True ends training. All workers must answer alike."""
    on_checkpoint: Callable[[int, Callable[[Path], None]], None] | None = None
    """Every ``checkpoint.every_steps``: gets the step and a function that writes this worker's part to a folder."""
    resume_from: Path | None = None
    """A folder with every worker's part of a checkpoint."""
    warn: Callable[[str], None] | None = None


@dataclass(frozen=True)
class TrainResult:
    """What training leaves behind."""

    model: torch.nn.Module
    """The module on this worker; with ZeRO-3 its parameters are only parts."""
    tokenizer: object
    state_dict: dict[str, torch.Tensor] | None
    """The full weights on worker 0, None on the others."""
    metrics: dict[str, float]
    """``eval_*`` of the last evaluation, ``train_loss``, ``seconds``, ``tokens_per_second``."""
    num_steps: int
