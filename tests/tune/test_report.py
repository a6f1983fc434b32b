"""Which trial is the best, and what is said of all."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_ray.errors import TuneError
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.tune.objective import WORST, Objective, objective_of
from fastserve_ray.tune.records import TrialRecord
from fastserve_ray.tune.report import all_failed, best_of, markdown

LOWER, HIGHER = Objective("eval_loss", "minimize"), Objective("eval_accuracy", "maximize")


def trial(number: int, value: float | None, **fields: Any) -> TrialRecord:
    metrics = {} if value is None else {"eval_loss": value, "eval_accuracy": value}
    status = "failed" if value is None else "finished"
    return TrialRecord.model_validate(
        {
            "trial": f"trial-{number:03d}",
            "parameters": {"train.learning_rate": 0.1 * (number + 1)},
            "status": status,
            "steps": 10,
            "seconds": 1.5,
            "metrics": metrics,
            **fields,
        }
    )


def test_the_goal_decides() -> None:
    trials = [trial(0, 2.0), trial(1, 1.0), trial(2, 3.0)]
    assert best_of(trials, LOWER) == trials[1]
    assert best_of(trials, HIGHER) == trials[2]


def test_of_equals_the_first_drawn_wins() -> None:
    assert best_of([trial(1, 1.0), trial(0, 1.0)], LOWER) == trial(0, 1.0)


def test_failed_trials_and_numbers_that_are_none_do_not_count() -> None:
    nan = trial(1, float("nan"))
    assert best_of([trial(0, None), nan, trial(2, 9.0)], LOWER) == trial(2, 9.0)
    assert best_of([trial(0, None), nan], LOWER) is None


def test_the_error_names_each_cause_once() -> None:
    causes = ["too hot", "too hot", "too cold", "a", "b"]
    error = all_failed([trial(number, None, error=f"{cause}\n more") for number, cause in enumerate(causes)])
    assert isinstance(error, TuneError)
    assert error.what == "all 5 trials failed"
    assert error.value == "too hot; too cold; a; and 1 more"


def test_the_table_is_ranked_and_failures_are_explained() -> None:
    text = markdown([trial(0, 2.0), trial(1, 1.0), trial(2, None, error="it broke\nhere")], LOWER, trial(1, 1.0))
    rows = [line.split(" | ")[0].strip("| ") for line in text.splitlines() if line.startswith("| trial-")]
    assert rows == ["trial-001", "trial-000", "trial-002"]
    assert "Best: trial-001 with train.learning_rate=0.2" in text
    assert "- trial-002: it broke" in text


@pytest.mark.parametrize(
    ("task", "tune", "expected"),
    [
        ("text-generation", {}, LOWER),
        ("text-classification", {}, HIGHER),
        ("text-generation", {"metric": "eval_accuracy"}, HIGHER),
    ],
)
def test_metric_and_goal_have_defaults(task: str, tune: dict[str, str], expected: Objective) -> None:
    space = {"train.learning_rate": {"space": "uniform", "lower": 0.1, "upper": 0.2}}
    spec = spec_from_dict(
        {
            "name": "a",
            "model": {"task": task, "base": "gpt2"},
            "data": {"train": {"path": "a.csv"}},
            "train": {},
            "tune": {"parameters": space, **tune},
        }
    )
    assert objective_of(spec) == expected


def test_nothing_is_worse_than_worst() -> None:
    assert LOWER.worst == WORST
    assert LOWER.is_better(1e9, than=LOWER.worst)
    assert HIGHER.is_better(-1e9, than=HIGHER.worst)
    assert LOWER.value({"eval_loss": float("inf")}) is None
    assert LOWER.value({}) is None
