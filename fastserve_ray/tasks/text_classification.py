"""Classification of whole texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from fastserve_ray.tasks.batches import pad_right
from fastserve_ray.tasks.protocol import LossSum, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class TextClassification:
    """Rows hold ``input_ids`` and ``label``, the class's id."""

    name = "text-classification"
    default_metric = "eval_accuracy"
    auto_class = "AutoModelForSequenceClassification"

    def auto_class_of(self, model_type: str) -> str:
        """The same for all."""
        return self.auto_class

    def collate(self, rows: Sequence[Row], pad_token_id: int) -> dict[str, torch.Tensor]:
        """``labels`` (B,) are the class ids."""
        input_ids, mask = pad_right(rows, pad_token_id)
        labels = torch.tensor([int(row["label"]) for row in rows])
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}

    def count(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Rows."""
        return len(batch["labels"])

    def loss(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> LossSum:
        """Cross-entropy over logits (B, C)."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        labels = batch["labels"]
        return LossSum(
            total=functional.cross_entropy(logits, labels, reduction="sum"),
            count=torch.tensor(len(labels), device=labels.device),
            correct=(logits.detach().argmax(-1) == labels).sum(),
        )

    def metrics(self, total: float, count: int, correct: int) -> dict[str, float]:
        """Mean loss in nats a row, and the share of rows classified right."""
        return {"eval_loss": total / count, "eval_accuracy": correct / count}
