"""Rules about ``tune``: the search itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.checks.compress import unknown_metric
from fastserve_ray.spec.metrics import TASK_METRICS
from fastserve_ray.spec.problems import Finding
from fastserve_ray.spec.tune import Choice, GridSearch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.tune import TuneSpec


def check_tune(spec: RunSpec) -> Iterator[Finding]:
    """A metric that exists, spaces that are not empty, spaces that the searcher knows."""
    if spec.tune is None:
        return
    yield from _metric(spec, spec.tune)
    yield from _bounds(spec.tune)
    yield from _searcher(spec.tune)
    yield from _batch(spec, spec.tune)
    yield from _compressed(spec.tune)
    every, steps = spec.tune.eval_every_steps, spec.tune.max_steps
    if every is not None and steps is not None and every > steps:
        yield Finding(
            ("tune", "eval_every_steps"),
            f"greater than tune.max_steps ({steps}), so a trial would never report before its end",
            str(every),
            f"at most {steps}",
            uses=(("tune", "max_steps"),),
        )


def _metric(spec: RunSpec, tune: TuneSpec) -> Iterator[Finding]:
    if tune.metric is None:
        return
    yield from unknown_metric(tune.metric, spec, ("tune", "metric"))
    better = TASK_METRICS[spec.model.task].get(tune.metric)
    if better is not None and tune.goal not in (None, better):
        yield Finding(
            ("tune", "goal"), f"the wrong way for {tune.metric}", tune.goal, better, uses=(("tune", "metric"),)
        )


def _bounds(tune: TuneSpec) -> Iterator[Finding]:
    for name, space in tune.parameters.items():
        if isinstance(space, Choice | GridSearch) or space.lower < space.upper:
            continue
        path = ("tune", "parameters", name)
        yield Finding(
            (*path, "lower"),
            f"not less than upper ({space.upper:g})",
            f"{space.lower:g}",
            "lower < upper",
            uses=((*path, "upper"),),
        )


def _searcher(tune: TuneSpec) -> Iterator[Finding]:
    uses = (("tune", "search_alg"),)
    for name, space in tune.parameters.items():
        path = ("tune", "parameters", name, "space")
        is_grid = isinstance(space, GridSearch)
        if tune.search_alg == "grid" and not is_grid:
            yield Finding(path, "search_alg: grid takes lists of values only", space.space, "grid_search", uses=uses)
        if tune.search_alg != "grid" and is_grid:
            allowed = "choice, or search_alg: grid"
            yield Finding(
                path, f"search_alg: {tune.search_alg} draws values at random", space.space, allowed, uses=uses
            )


def _compressed(tune: TuneSpec) -> Iterator[Finding]:
    """A trial of several workers ends with its model spread over them."""
    name = next((name for name in tune.parameters if name.startswith("compress.")), None)
    if name is not None and tune.workers_per_trial > 1:
        yield Finding(
            ("tune", "workers_per_trial"),
            "a search over compress.* compresses the model in the trial's own process",
            str(tune.workers_per_trial),
            "1",
            uses=(("tune", "parameters", name),),
        )


def _batch(spec: RunSpec, tune: TuneSpec) -> Iterator[Finding]:
    if spec.train is None:
        return
    if spec.train.micro_batch_size == "auto" and "train.batch_size" in tune.parameters:
        yield Finding(
            ("train", "micro_batch_size"),
            "is chosen for one batch size, and tune.parameters has others",
            "auto",
            "a number that divides them all",
            uses=(("tune", "parameters", "train.batch_size"),),
        )
    parts = tune.workers_per_trial * spec.train.gradient_accumulation_steps
    if spec.train.batch_size % parts:
        yield Finding(
            ("tune", "workers_per_trial"),
            f"train.batch_size ({spec.train.batch_size}) is not divisible by workers_per_trial x "
            f"gradient_accumulation_steps ({parts})",
            str(tune.workers_per_trial),
            "workers that share a batch evenly",
            uses=(("train", "batch_size"), ("train", "gradient_accumulation_steps")),
        )
