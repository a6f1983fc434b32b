"""Ray Tune's searchers and schedulers as the spec names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.spec.tune import TuneSpec
    from fastserve_ray.tune.objective import Objective
    from fastserve_ray.tune.records import TrialRecord

MAX_REPORTS = 100_000
"""ASHA's horizon in evaluations. Trials end by themselves; this only bounds the number of rungs."""
MIN_RANDOM_TRIALS, MAX_RANDOM_TRIALS = 2, 10
"""Optuna draws at random before it has a model of the space; its default of 10 is all of a small search."""


def make_searcher(tune: TuneSpec, finished: Sequence[TrialRecord] = (), max_concurrent: int | None = None) -> Any:
    """The search algorithm; seeded, so that the same search draws the same parameters.

    Args:
        finished: trials of an earlier try. Random and grid search draw them again by themselves. Optuna's draws
            depend on results, so it is given them first and draws the rest with another seed.
        max_concurrent: trials at a time; None for as many as there is room for. It is the searcher's to keep: what
            ``TuneConfig`` says of it holds for some searchers only.
    """
    from ray.tune.search.basic_variant import BasicVariantGenerator

    if tune.search_alg != "optuna":
        return BasicVariantGenerator(random_state=tune.seed, max_concurrent=max_concurrent or 0)
    import optuna
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    num_random = min(max(tune.num_samples // 4, MIN_RANDOM_TRIALS), MAX_RANDOM_TRIALS)
    sampler = optuna.samplers.TPESampler(seed=tune.seed + len(finished), n_startup_trials=num_random)
    searcher = OptunaSearch(sampler=sampler, points_to_evaluate=[record.parameters for record in finished] or None)
    return searcher if max_concurrent is None else ConcurrencyLimiter(searcher, max_concurrent)


def make_scheduler(tune: TuneSpec, objective: Objective) -> Any:
    """ASHA (arXiv 1810.05934) over evaluations, or a scheduler that stops nothing."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if tune.scheduler == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="training_iteration",
        max_t=max(MAX_REPORTS, tune.grace_period),
        grace_period=tune.grace_period,
        reduction_factor=tune.reduction_factor,
    )
