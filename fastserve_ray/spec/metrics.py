"""The metrics that each task reports, and which way each is better."""

from __future__ import annotations

from typing import Literal

TASK_METRICS: dict[str, dict[str, Literal["minimize", "maximize"]]] = {
    "text-generation": {"eval_loss": "minimize", "eval_perplexity": "minimize", "eval_accuracy": "maximize"},
    "masked-lm": {"eval_loss": "minimize", "eval_accuracy": "maximize"},
    "text-embedding": {},
    "text-classification": {"eval_loss": "minimize", "eval_accuracy": "maximize"},
}
