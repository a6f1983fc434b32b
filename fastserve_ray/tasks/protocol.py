"""What a task is: columns, batches, loss and metrics. Training, tuning, compression and verification share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

Goal = Literal["minimize", "maximize"]
Row = Mapping[str, Any]
"""A row of a prepared dataset: ``input_ids`` (list of int), ``label`` (int) for classification, and ``lengths`` (list
of int) of the documents in a packed row. Training adds ``draw``, integers that seed what a task draws for the row."""


@dataclass(frozen=True)
class LossSum:
    """A loss that adds up over batches, workers and accumulation steps to the exact mean."""

    total: torch.Tensor
    """Sum of the loss over ``count`` items, float32 scalar with gradient."""
    count: torch.Tensor
    """Tokens (generation) or rows (classification) in ``total``, int64 scalar."""
    correct: torch.Tensor
    """How many of them the most probable answer gets right, int64 scalar."""


class Task(Protocol):
    """Stateless."""

    name: str
    default_metric: str
    """What is tuned and judged when the user names nothing: ``eval_loss`` or ``eval_accuracy``."""
    auto_class: str
    """Class of ``transformers`` that loads the model, for example ``AutoModelForCausalLM``."""

    def auto_class_of(self, model_type: str) -> str:
        """The class for a model type, where it is another than ``auto_class``."""
        ...

    def collate(self, rows: Sequence[Row], pad_token_id: int) -> dict[str, torch.Tensor]:
        """Rows to tensors ``input_ids``, ``attention_mask`` (B, T) and ``labels`` ((B, T) or (B,)), int64, padded
        on the right to the longest row; ``position_ids`` (B, T) where rows hold several documents."""
        ...

    def count(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Items that ``loss`` of this batch adds up; known before the forward pass."""
        ...

    def loss(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> LossSum:
        """One forward pass."""
        ...

    def metrics(self, total: float, count: int, correct: int) -> dict[str, float]:
        """Sums over the validation rows to metrics named ``eval_*``."""
        ...
