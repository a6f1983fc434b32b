"""When a run is given up."""

from __future__ import annotations

import pytest

from fastserve_ray.training.patience import PatienceCounter
from fastserve_ray.training.work import Patience


@pytest.mark.parametrize(
    ("goal", "values", "stops"),
    [
        ("minimize", [3.0, 2.0, 2.5, 2.1, 1.0], [False, False, False, True, False]),
        ("maximize", [0.3, 0.2, 0.4, 0.4, 0.4], [False, False, False, False, True]),
    ],
)
def test_two_evaluations_without_a_better_one_are_enough(goal: str, values: list[float], stops: list[bool]) -> None:
    counter = PatienceCounter(Patience("eval_x", goal, 2))
    assert [counter(step, {"eval_x": value}) for step, value in enumerate(values)] == stops
