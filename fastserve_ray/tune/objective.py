"""What a search optimises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.errors import TuneError
from fastserve_ray.spec.metrics import TASK_METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.tasks.protocol import Goal

DEFAULT_METRICS = {"text-generation": "eval_loss", "text-classification": "eval_accuracy", "masked-lm": "eval_loss"}
WORST = 1e30
"""Reported for a trial that failed: finite, because schedulers and searchers do arithmetic with it."""


@dataclass(frozen=True)
class Objective:
    """A metric and which way it is better."""

    metric: str
    goal: Goal

    @property
    def mode(self) -> str:
        """Ray Tune's word for the goal."""
        return "min" if self.goal == "minimize" else "max"

    @property
    def worst(self) -> float:
        """A value that nothing is worse than."""
        return WORST if self.goal == "minimize" else -WORST

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """The metric, None where it is missing or not a finite number."""
        found = metrics.get(self.metric)
        return found if found is not None and math.isfinite(found) else None

    def is_better(self, value: float, than: float) -> bool:
        """Whether ``value`` is strictly better."""
        return value < than if self.goal == "minimize" else value > than


def objective_of(spec: RunSpec) -> Objective:
    """The metric and goal that ``tune`` names, or the task's.

    Raises:
        TuneError: a metric of unknown direction without ``tune.goal``.
    """
    assert spec.tune is not None
    metric = spec.tune.metric or DEFAULT_METRICS[spec.model.task]
    goal = spec.tune.goal or TASK_METRICS[spec.model.task].get(metric)
    if goal is None:
        raise TuneError(
            "it is not known which way this metric is better",
            value=metric,
            allowed="minimize or maximize",
            key="tune.goal",
        )
    return Objective(metric, goal)
