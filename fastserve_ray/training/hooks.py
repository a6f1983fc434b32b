"""What the loop tells the outside, and what it may be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_ray.events.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from fastserve_ray.training.adapters.protocol import Adapter
    from fastserve_ray.training.balance.policy import Change
    from fastserve_ray.training.checkpoint.slices import Snapshot


def go_on(step: int, metrics: dict[str, float]) -> bool:
    """An evaluation that nobody waits for."""
    return False


def never_stop() -> bool:
    """Training that ends by itself."""
    return False


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the training loop. Every worker has its own; where one answers, all must answer alike."""

    progress: Progress = silent
    """At the first and the last step and after every ``logging_steps``."""
    on_step: Callable[[int, float], None] | None = None
    """After every step: its number from 1 and the mean loss over the global batch."""
    on_evaluate: Callable[[int, dict[str, float]], bool] = go_on
    """After an evaluation, with the step and all metrics so far; True ends training."""
    should_stop: Callable[[], bool] = never_stop
    """Asked after every step; True ends training with one more evaluation."""
    on_checkpoint: Callable[[int, Snapshot], None] | None = None
    """Every ``checkpoint.every_steps``: gets the step and this worker's part of a checkpoint."""
    on_balance: Callable[[int, Change], None] | None = None
    """When shares of a batch change, with the steps done so far."""
    resume_from: Path | None = None
    """A folder with a checkpoint, of any strategy and any number of workers."""
    warn: Callable[[str], None] | None = None
    """On worker 0: a setting that does not suit this machine."""


@dataclass(frozen=True)
class TrainResult:
    """What training leaves behind."""

    model: torch.nn.Module
    """The module on this worker; with ZeRO-3 its parameters are only parts. On worker 0 an adapter is merged in."""
    tokenizer: Any
    state_dict: dict[str, torch.Tensor] | None
    """The full weights on the CPU on worker 0, None on the others."""
    metrics: dict[str, float]
    """``eval_*`` of the last evaluation, ``train_loss`` of the last step, ``seconds``,
    ``checkpoint_seconds`` (those that steps waited for checkpoints), and what a Speedometer says."""
    num_steps: int
    """Optimizer steps in all, those before a resume included."""
    adapter: Adapter | None = None
    """What the weights cannot hold by themselves."""

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder with float32 weights; on worker 0."""
        from fastserve_ray.models.loading import save_model

        assert self.state_dict is not None, "only worker 0 has the weights"
        if self.adapter is not None:
            self.adapter.save(self.model, self.state_dict, self.tokenizer, folder)
            return
        save_model(self.model, self.tokenizer, folder, state_dict=self.state_dict)


def train_result(
    module: torch.nn.Module,
    tokenizer: Any,
    state_dict: dict[str, torch.Tensor] | None,
    metrics: dict[str, float],
    num_steps: int,
) -> TrainResult:
    """The result, with an adapter merged where that can be."""
    from fastserve_ray.training.adapters.table import adapter_of

    adapter = adapter_of(module)
    if adapter is None or state_dict is None:
        return TrainResult(module, tokenizer, state_dict, metrics, num_steps)
    if not adapter.is_mergeable:
        return TrainResult(module, tokenizer, state_dict, metrics, num_steps, adapter)
    merged = adapter.merged(module, state_dict)
    return TrainResult(merged, tokenizer, dict(merged.state_dict()), metrics, num_steps)
