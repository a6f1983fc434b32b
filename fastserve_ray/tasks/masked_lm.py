"""Masked language modelling with next-sentence prediction (BERT, arXiv 1810.04805): L = L_masked + L_next.

Of each row 15% of the tokens are chosen, drawn anew in every epoch; 80% of these become the mask token, 10% a random
one, 10% stay. The draw hangs on the row's tokens, the seed and the epoch alone, so neither workers nor resumes change
it. Validation rows are always masked in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from torch.nn import functional

from fastserve_ray.spec.model import NEXT_SENTENCE_TYPES
from fastserve_ray.tasks.batches import pad_right
from fastserve_ray.tasks.packed import IGNORED
from fastserve_ray.tasks.protocol import LossSum, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

CHOSEN, MASKED, RANDOM = 0.15, 0.8, 0.1
"""Part of a row's tokens that is predicted; of these, parts that are masked and that become another token."""
NEXT = "next_sentence_label"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class MaskedLM:
    """Rows hold ``input_ids`` with their special tokens, the positions of these (``special``), the id of the mask token
    (``mask_token_id``) and how many tokens there are (``vocab_size``); rows of two segments also ``second``, where the
    second begins, and ``is_random``, whether it is of another document (1) or the first goes on in it (0)."""

    name = "masked-lm"
    default_metric = "eval_loss"
    auto_class = "AutoModelForMaskedLM"

    def auto_class_of(self, model_type: str) -> str:
        """The pre-training class for types that have a head for the next sentence."""
        return "AutoModelForPreTraining" if model_type in NEXT_SENTENCE_TYPES else self.auto_class

    def collate(self, rows: Sequence[Row], pad_token_id: int) -> dict[str, torch.Tensor]:
        """``labels`` (B, T) are the original tokens where chosen, else -100. With ``token_type_ids`` (B, T) and
        ``next_sentence_label`` (B,) where rows have two segments."""
        masked, labels = zip(*(_mask(row) for row in rows), strict=True)
        input_ids, mask = pad_right([{"input_ids": ids} for ids in masked], pad_token_id)
        padded, _ = pad_right([{"input_ids": ids} for ids in labels], IGNORED)
        batch = {"input_ids": input_ids, "attention_mask": mask, "labels": padded}
        if "second" in rows[0]:
            second = torch.tensor([int(row["second"]) for row in rows])[:, None]
            types = (torch.arange(input_ids.shape[1]) >= second) & mask.bool()
            batch |= {"token_type_ids": types.long(), NEXT: torch.tensor([int(row["is_random"]) for row in rows])}
        return batch

    def count(self, batch: Mapping[str, torch.Tensor]) -> int:
        """Chosen tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> LossSum:
        """Cross-entropy of the chosen tokens. Each pair's loss is added once for each of its chosen tokens, so that
        dividing by their count gives L_masked + L_next over any split of the rows."""
        output: Any = model(**{name: batch[name] for name in INPUTS if name in batch})
        logits = output["prediction_logits"] if "prediction_logits" in output else output["logits"]
        labels = batch["labels"]
        chosen = labels != IGNORED
        logits, targets = logits[chosen].float(), labels[chosen]
        total = functional.cross_entropy(logits, targets, reduction="sum")
        if NEXT in batch:
            next_loss = functional.cross_entropy(
                output["seq_relationship_logits"].float(), batch[NEXT], reduction="none"
            )
            total = total + (next_loss * chosen.sum(1)).sum()
        return LossSum(total, chosen.sum(), (logits.detach().argmax(-1) == targets).sum())

    def metrics(self, total: float, count: int, correct: int) -> dict[str, float]:
        """L_masked + L_next in nats, and the share of chosen tokens guessed right."""
        return {"eval_loss": total / count, "eval_accuracy": correct / count}


def _mask(row: Row) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Input and labels of one row."""
    original: NDArray[np.int64] = np.array(row["input_ids"], dtype=np.int64)
    random = np.random.default_rng([*row.get("draw", ()), crc32(original.tobytes())])
    candidates = np.setdiff1d(np.arange(len(original)), row["special"])
    count = max(1, round(CHOSEN * len(candidates)))
    chosen = random.choice(candidates, size=count, replace=False)
    fate, others = random.random(count), random.integers(0, row["vocab_size"], count)
    tokens = np.where(fate < MASKED, row["mask_token_id"], np.where(fate < MASKED + RANDOM, others, original[chosen]))
    masked, labels = original.copy(), np.full_like(original, IGNORED)
    masked[chosen], labels[chosen] = tokens, original[chosen]
    return masked, labels
