"""Which way each metric is better."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.tasks.protocol import Goal

GOALS: dict[str, Goal] = {"eval_loss": "minimize", "eval_perplexity": "minimize", "eval_accuracy": "maximize"}


def goal_of(metric: str) -> Goal | None:
    """Whether a higher or a lower value is better; None for a metric that no task computes."""
    return GOALS.get(metric)
