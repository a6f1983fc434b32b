"""The quality gate, in every direction."""

from __future__ import annotations

import math

import pytest

from fastserve_ray.errors import VerificationError
from fastserve_ray.verify.gate import judge


@pytest.mark.parametrize(
    ("metric", "parent", "model", "allowed", "drop", "is_passed"),
    [
        ("eval_accuracy", 0.90, 0.88, 0.01, 0.02, False),
        ("eval_accuracy", 0.90, 0.88, 0.03, 0.02, True),
        ("eval_accuracy", 0.90, 0.95, 0.0, -0.05, True),
        ("eval_accuracy", 0.5, 0.25, 0.25, 0.25, True),  # the limit itself is allowed
        ("eval_loss", 2.0, 2.5, 0.25, 0.5, False),
        ("eval_loss", 2.0, 2.5, 1.0, 0.5, True),
        ("eval_loss", 2.0, 1.5, 0.0, -0.5, True),
        ("eval_perplexity", 10.0, 10.5, 0.4, 0.5, False),
        ("eval_perplexity", 10.0, 10.0, 0.0, 0.0, True),
    ],
)
def test_worse_is_higher_or_lower_by_the_metric(
    metric: str, parent: float, model: float, *, allowed: float, drop: float, is_passed: bool
) -> None:
    (finding,) = judge({metric: parent}, {metric: model}, {metric: allowed})
    assert finding.drop == pytest.approx(drop)
    assert finding.is_passed == is_passed
    assert (finding.metric, finding.parent, finding.model, finding.allowed) == (metric, parent, model, allowed)


@pytest.mark.parametrize(("parent", "model"), [(1.0, math.nan), (math.nan, 1.0), (math.inf, math.inf), (1.0, math.inf)])
def test_what_is_not_a_number_does_not_pass(parent: float, model: float) -> None:
    (finding,) = judge({"eval_loss": parent}, {"eval_loss": model}, {"eval_loss": 1e9})
    assert not finding.is_passed


def test_each_limit_has_a_finding_and_other_metrics_have_none() -> None:
    metrics = {"eval_loss": 1.0, "eval_accuracy": 0.5, "eval_perplexity": 2.7}
    findings = judge(metrics, metrics, {"eval_accuracy": 0.0, "eval_loss": 0.1})
    assert [finding.metric for finding in findings] == ["eval_accuracy", "eval_loss"]
    assert judge(metrics, {}, {}) == ()


@pytest.mark.parametrize("metric", ["eval_f1", "size_ratio"])
def test_a_metric_of_no_known_direction_is_an_error(metric: str) -> None:
    with pytest.raises(VerificationError) as caught:
        judge({metric: 1.0, "eval_loss": 1.0}, {metric: 1.0, "eval_loss": 1.0}, {metric: 0.1})
    assert caught.value.key == f"verify.max_drop.{metric}"
    assert caught.value.allowed == "eval_loss"


def test_a_metric_that_one_side_lacks_is_an_error() -> None:
    for parent, model in (({"eval_loss": 1.0}, {}), ({}, {"eval_loss": 1.0})):
        with pytest.raises(VerificationError, match="not measured"):
            judge(parent, model, {"eval_loss": 0.1})


def test_the_words_say_how_much_and_the_limit() -> None:
    (worse,) = judge({"eval_accuracy": 0.9}, {"eval_accuracy": 0.875}, {"eval_accuracy": 0.01})
    assert worse.words() == (
        "eval_accuracy 0.8750 against 0.9000 of the trained parent: 0.0250 worse, at most 0.01 worse allowed"
    )
    (better,) = judge({"eval_loss": 2.0}, {"eval_loss": 1.5}, {"eval_loss": 0.1})
    assert "0.5000 better" in better.words()
