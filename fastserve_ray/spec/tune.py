"""``tune``: a search over any keys of this file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastserve_ray.spec.base import ListInput, PositiveInt, Scalar, Section


class Uniform(Section):
    """A float between two bounds."""

    space: Literal["uniform"]
    lower: float
    upper: float


class LogUniform(Section):
    """A float between two positive bounds, uniform in the logarithm."""

    space: Literal["loguniform"]
    lower: Annotated[float, Field(gt=0)]
    upper: Annotated[float, Field(gt=0)]


class RandomInteger(Section):
    """An integer from lower to upper, both included."""

    space: Literal["randint"]
    lower: int
    upper: int


class Choice(Section):
    """One of the listed values, drawn at random."""

    space: Literal["choice"]
    categories: Annotated[tuple[Scalar, ...], Field(min_length=1), ListInput]


class GridSearch(Section):
    """Every listed value; for ``search_alg: grid``."""

    space: Literal["grid_search"]
    values: Annotated[tuple[Scalar, ...], Field(min_length=1), ListInput]


SearchSpace = Annotated[Uniform | LogUniform | RandomInteger | Choice | GridSearch, Field(discriminator="space")]


class TuneSpec(Section):
    """A Ray Tune search whose best configuration flows into the stages after it."""

    metric: str | None = None
    """Metric to optimise; default: eval_loss for text generation, eval_accuracy for classification."""
    goal: Literal["minimize", "maximize"] | None = None
    """Read from the metric when left out and the metric is a known one."""
    num_samples: PositiveInt = 8
    """Trials; with ``grid`` how often the whole grid is repeated."""
    search_alg: Literal["random", "grid", "optuna"] = "random"
    scheduler: Literal["asha", "none"] = "asha"
    """asha stops trials that fall behind (arXiv 1810.05934)."""
    grace_period: PositiveInt = 1
    """Evaluations that a trial gets before asha may stop it."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """asha keeps one trial in so many at each rung."""
    max_steps: PositiveInt | None = None
    """Optimizer steps of a trial; default: as many as ``train`` would take."""
    eval_every_steps: PositiveInt | None = None
    """Steps between two reports of a trial; default: four reports a trial."""
    patience: PositiveInt | None = None
    """A trial ends after so many evaluations without a better metric."""
    workers_per_trial: PositiveInt = 1
    """Training workers of one trial; 1 trains in the trial's own process."""
    max_concurrent_trials: PositiveInt | None = None
    """Default: as many as the cluster has room for."""
    parameters: Annotated[dict[str, SearchSpace], Field(min_length=1)]
    """Search spaces by dotted path of this file, for example ``train.learning_rate`` or ``compress.0.sparsity``. With
    a ``compress.`` path each trial reports once, at its end, after compression."""
    seed: Annotated[int, Field(ge=0)] = 0
