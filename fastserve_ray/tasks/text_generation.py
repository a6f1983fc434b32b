"""Causal language modelling: predict the next token of the same document."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from fastserve_ray.tasks.batches import pad_right
from fastserve_ray.tasks.packed import IGNORED, is_packed, keeps_documents_apart, positions_of, taken_apart
from fastserve_ray.tasks.protocol import LossSum, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class TextGeneration:
    """Rows hold ``input_ids``; every token but the first of a document is a label for the position before it.

    A packed row also has ``lengths``, those of its documents. A row of conversations has ``answers``: first and one
    past the last position of each run of tokens that are trained and judged, the others are only read.
    """

    name = "text-generation"
    default_metric = "eval_loss"
    auto_class = "AutoModelForCausalLM"

    def auto_class_of(self, model_type: str) -> str:
        """The same for all."""
        return self.auto_class

    def collate(self, rows: Sequence[Row], pad_token_id: int) -> dict[str, torch.Tensor]:
        """``labels`` (B, T) are the input tokens, and -100 where padded or where a document starts.

        With ``position_ids`` (B, T) only where some row holds several documents.
        """
        input_ids, mask = pad_right(rows, pad_token_id)
        labels = input_ids.masked_fill((mask == 0) | ~_judged(rows, input_ids.shape[1]), IGNORED)
        batch = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
        if is_packed(rows):
            positions = positions_of(rows, input_ids.shape[1])
            batch |= {"labels": labels.masked_fill(positions == 0, IGNORED), "position_ids": positions}
        return batch

    def count(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Tokens with a label."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def loss(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> LossSum:
        """Cross-entropy over next tokens; logits (B, T, V) are compared with the labels one position later."""
        batch = _suited(model, batch)
        names = ("input_ids", "position_ids" if "position_ids" in batch else "attention_mask")
        logits = model(**{name: batch[name] for name in names}, use_cache=False).logits
        logits = logits[:, -batch["labels"].shape[1] : -1].flatten(0, 1).float()  # after a learned prompt's own
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


def _judged(rows: Sequence[Row], length: int) -> torch.Tensor:
    """(B, T) bool: everything, or only the answers where a row says which these are."""
    judged = torch.ones(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        if row.get("answers") is not None:
            judged[index] = False
            for start, end in zip(row["answers"][::2], row["answers"][1::2], strict=True):
                judged[index, start:end] = True
    return judged


def _suited(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Packed only for a model that keeps documents apart."""
    if "position_ids" not in batch or keeps_documents_apart(model):
        return batch
    return taken_apart(batch)
