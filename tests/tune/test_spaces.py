"""The spec's spaces as Ray Tune's."""

from __future__ import annotations

from typing import Any

import pytest
from ray.tune.search.variant_generator import generate_variants

from fastserve_ray.spec import Choice, GridSearch, LogUniform, RandomInteger, TuneSpec, Uniform
from fastserve_ray.tune.spaces import num_trials, param_space, tune_space


def draw(space: Any, count: int) -> list[Any]:
    """Samples as a searcher draws them."""
    return [config["x"] for _ in range(count) for _, config in generate_variants({"x": tune_space(space)})]


def test_bounds_are_kept() -> None:
    assert all(2.0 <= value <= 3.0 for value in draw(Uniform(space="uniform", lower=2.0, upper=3.0), 50))
    values = draw(LogUniform(space="loguniform", lower=1e-6, upper=1.0), 200)
    assert all(1e-6 <= value <= 1.0 for value in values)
    assert 50 < sum(value < 1e-3 for value in values) < 150


def test_both_ends_of_integers_are_drawn() -> None:
    values = draw(RandomInteger(space="randint", lower=1, upper=3), 100)
    assert set(values) == {1, 2, 3}
    assert all(type(value) is int for value in values)


def test_lists_are_drawn_or_gone_through() -> None:
    assert set(draw(Choice(space="choice", categories=("a", 2, True)), 60)) == {"a", 2, True}
    assert draw(GridSearch(space="grid_search", values=(3, 1, 2)), 1) == [3, 1, 2]


def test_paths_stay_whole() -> None:
    space = param_space({"train.learning_rate": Uniform(space="uniform", lower=0.0, upper=1.0)})
    ((_, config),) = generate_variants(space)
    assert list(config) == ["train.learning_rate"]


@pytest.mark.parametrize(("num_samples", "values", "total"), [(1, (1, 2, 3), 6), (2, (1,), 4)])
def test_a_grid_multiplies(num_samples: int, values: tuple[int, ...], total: int) -> None:
    tune = TuneSpec(
        num_samples=num_samples,
        search_alg="grid",
        parameters={
            "train.batch_size": GridSearch(space="grid_search", values=values),
            "train.seed": GridSearch(space="grid_search", values=(0, 1)),
        },
    )
    assert num_trials(tune) == total
