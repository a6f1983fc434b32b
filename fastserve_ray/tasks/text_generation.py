"""Causal language modelling: predict the next token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.nn import functional

from fastserve_ray.tasks.batches import pad_right
from fastserve_ray.tasks.protocol import LossSum, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

IGNORED = -100
"""Label of a position that does not count, as in transformers."""


class TextGeneration:
    """Rows hold ``input_ids``; every token but the first is a label for the position before it."""

    name = "text-generation"
    default_metric = "eval_loss"
    auto_class = "AutoModelForCausalLM"

    def collate(self, rows: Sequence[Row], pad_token_id: int) -> dict[str, torch.Tensor]:
        """``labels`` (B, T) are the input tokens, and -100 where padded."""
        input_ids, mask = pad_right(rows, pad_token_id)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": input_ids.masked_fill(mask == 0, IGNORED)}

    def count(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Tokens with a label."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def loss(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> LossSum:
        """Cross-entropy over next tokens; logits (B, T, V) are compared with the labels one position later."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        logits = logits[:, :-1].flatten(0, 1).float()
        labels = batch["labels"][:, 1:].flatten()
        counted = labels != IGNORED
        return LossSum(
            total=functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"),
            count=counted.sum(),
            correct=((logits.detach().argmax(-1) == labels) & counted).sum(),
        )

    def metrics(self, total: float, count: int, correct: int) -> dict[str, float]:
        """Mean loss in nats a token, its exponential, and the share of next tokens guessed right."""
        loss = total / count
        return {
            "eval_loss": loss,
            "eval_perplexity": math.exp(loss) if loss < 700 else math.inf,
            "eval_accuracy": correct / count,
        }
