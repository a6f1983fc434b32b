"""The spec's search spaces as Ray Tune's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fastserve_ray.spec.tune import Choice, GridSearch, LogUniform, RandomInteger, Uniform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.spec.tune import SearchSpace, TuneSpec


def tune_space(space: SearchSpace) -> Any:
    """A ``ray.tune`` sampling domain, or ``{"grid_search": [...]}``. Ray's ``randint`` leaves the upper end out."""
    from ray import tune

    match space:
        case Uniform():
            return tune.uniform(space.lower, space.upper)
        case LogUniform():
            return tune.loguniform(space.lower, space.upper)
        case RandomInteger():
            return tune.randint(space.lower, space.upper + 1)
        case Choice():
            return tune.choice(list(space.categories))
        case GridSearch():
            return tune.grid_search(list(space.values))


def param_space(parameters: Mapping[str, SearchSpace]) -> dict[str, Any]:
    """``param_space`` of a Tuner: Ray's domains by dotted path."""
    return {path: tune_space(space) for path, space in parameters.items()}


def num_trials(tune: TuneSpec) -> int:
    """Trials of a whole search: ``num_samples`` times the size of the grid."""
    grid = (len(space.values) for space in tune.parameters.values() if isinstance(space, GridSearch))
    return tune.num_samples * math.prod(grid)
