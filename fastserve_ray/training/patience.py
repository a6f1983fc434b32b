"""Giving up on a run that does not get better."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.training.work import Patience


class PatienceCounter:
    """Use as ``Hooks.on_evaluate``. All workers see the same metrics, so all stop in the same step."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._best: float | None = None
        self._num_worse = 0

    def __call__(self, step: int, metrics: dict[str, float]) -> bool:
        """Whether to stop now."""
        value = metrics[self._patience.metric] * (-1.0 if self._patience.goal == "maximize" else 1.0)
        if self._best is None or value < self._best:
            self._best, self._num_worse = value, 0
        else:
            self._num_worse += 1
        return self._num_worse >= self._patience.evaluations
