"""The spec of one trial."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.spec.load import with_overrides
from fastserve_ray.spec.train import TrainSpec
from fastserve_ray.training.job import TrainJob

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.spec.base import Scalar
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.tune.objective import Objective
    from fastserve_ray.tune.records import TrialRecord

REPORTS_PER_TRIAL = 4
"""Evaluations of a trial when ``tune.eval_every_steps`` does not say."""


@dataclass(frozen=True)
class SearchJob:
    """What every trial of a search shares; crosses to the trials' processes."""

    identity: str
    """Artifact id of the search."""
    spec: RunSpec
    dataset: str
    """Artifact id."""
    num_rows: int
    """Training rows of the dataset."""
    storage_uri: str
    """Absolute."""
    run_id: str
    objective: Objective
    finished: Mapping[str, TrialRecord] = field(default_factory=dict)
    """Trials of an earlier try of this search, by the key of their parameters."""


def tunes_compression(spec: RunSpec) -> bool:
    """Whether trials are judged after compression."""
    assert spec.tune is not None
    return any(path.startswith("compress.") for path in spec.tune.parameters)


def trial_spec(spec: RunSpec, parameters: Mapping[str, Scalar]) -> RunSpec:
    """``spec`` with a trial's parameters, and ``train`` as the trial runs it.

    Raises:
        SpecError: the parameters do not go together.
    """
    assert spec.tune is not None
    return with_overrides(spec, {"tune": None, "verify": {}, **parameters})


def trial_train(spec: RunSpec, changed: RunSpec, num_rows: int) -> TrainSpec:
    """How a trial trains: its own number of steps, workers and evaluations.

    Args:
        spec: with the ``tune`` section.
        changed: with the trial's parameters.
        num_rows: training rows.
    """
    assert spec.tune is not None
    assert changed.train is not None
    tune, train = spec.tune, changed.train
    num_steps = tune.max_steps or TrainJob(changed.model, train, Path()).total_steps(num_rows)
    settings = train.model_dump()
    settings["max_steps"] = num_steps
    settings["eval_every_steps"] = tune.eval_every_steps or max(1, math.ceil(num_steps / REPORTS_PER_TRIAL))
    settings["parallel"] = {**settings["parallel"], "workers": tune.workers_per_trial}
    return TrainSpec.model_validate(settings)
