"""The quality gate: how much worse than its parent a model may be. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.errors import VerificationError
from fastserve_ray.tasks.metrics import goal_of

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Finding:
    """One metric of the gate."""

    metric: str
    parent: float
    model: float
    drop: float
    """How much worse the model is than the parent; negative when it is better."""
    allowed: float

    @property
    def is_passed(self) -> bool:
        """A value that is not a number fails."""
        return self.drop <= self.allowed

    def words(self) -> str:
        """One line for a person."""
        way = "worse" if self.drop > 0 else "better"
        return (
            f"{self.metric} {self.model:.4f} against {self.parent:.4f} of the trained parent: "
            f"{abs(self.drop):.4f} {way}, at most {self.allowed:g} worse allowed"
        )


def judge(
    parent: Mapping[str, float], model: Mapping[str, float], max_drop: Mapping[str, float]
) -> tuple[Finding, ...]:
    """Compare the metrics that ``max_drop`` names, in their own units.

    Raises:
        VerificationError: a metric is missing on one side, or it is not known which way it is better.
    """
    return tuple(_finding(metric, parent, model, allowed) for metric, allowed in max_drop.items())


def _finding(metric: str, parent: Mapping[str, float], model: Mapping[str, float], allowed: float) -> Finding:
    goal = goal_of(metric)
    known = sorted(name for name in parent if name in model and goal_of(name) is not None)
    if goal is None or metric not in parent or metric not in model:
        raise VerificationError(
            "the gate names a metric that was not measured",
            value=metric,
            allowed=", ".join(known),
            key=f"verify.max_drop.{metric}",
        )
    worse = model[metric] - parent[metric] if goal == "minimize" else parent[metric] - model[metric]
    # a metric that was not a number on either side must not pass as a drop of zero
    drop = worse if math.isfinite(worse) else math.inf
    return Finding(metric, parent[metric], model[metric], drop, allowed)
