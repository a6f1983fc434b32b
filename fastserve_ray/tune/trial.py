"""One trial: trains with its parameters and reports every evaluation to Ray Tune.

With one worker it trains in the trial's own process, which Ray Tune keeps for the next trial, so torch is imported
once. With more it starts Ray Train workers and waits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import FastServeError, TuneError
from fastserve_ray.tune.records import key_of
from fastserve_ray.tune.settings import SearchJob, trial_spec, trial_train, tunes_compression

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastserve_ray.spec.base import Scalar
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.train import TrainSpec
    from fastserve_ray.training.hooks import TrainResult
    from fastserve_ray.training.work import Patience
    from fastserve_ray.tune.records import TrialRecord

FAILED = "failed"
"""Key of a report that says why a trial failed; its metric is the worst value."""


def run_trial(config: dict[str, Scalar], job: SearchJob) -> None:
    """The function that Ray Tune calls.

    An error of ours (the loss diverged, the parameters do not go together) is reported as the worst result, so that
    the searcher learns from it and the process serves the next trial.
    """
    earlier = job.finished.get(key_of(config))
    try:
        if earlier is not None:
            _replay(earlier)
        else:
            _train(config, job)
    except FastServeError as error:
        _report_failure(str(error), job)


def _replay(record: TrialRecord) -> None:
    """Tell searcher and scheduler what an earlier try of this search found."""
    from ray import tune

    for report in record.reports:
        tune.report({**report.metrics, "step": report.step})


def _report_failure(reason: str, job: SearchJob) -> None:
    from ray import tune

    tune.report({job.objective.metric: job.objective.worst, FAILED: reason})


def _train(config: dict[str, Scalar], job: SearchJob) -> None:
    assert job.spec.tune is not None
    changed = trial_spec(job.spec, config)
    train = trial_train(job.spec, changed, job.num_rows)
    if job.spec.tune.workers_per_trial == 1:
        _train_here(changed, train, job)
    else:
        _train_on_workers(changed, train, job, key_of(config))


def _train_here(changed: RunSpec, train: TrainSpec, job: SearchJob) -> None:
    """Imports torch."""
    from fastserve_ray.artifacts.registry import Registry
    from fastserve_ray.storage.filesystem import Storage
    from fastserve_ray.training.hooks import Hooks
    from fastserve_ray.training.in_process import on_one_worker, train_in_process
    from fastserve_ray.training.job import TrainJob

    registry = Registry(Storage.open(job.storage_uri))
    resources = train.resources_per_worker
    is_judged_at_end = tunes_compression(job.spec)
    result = train_in_process(
        TrainJob(changed.model, on_one_worker(train), registry.fetch(job.dataset)),
        Hooks() if is_judged_at_end else Hooks(on_evaluate=_reporter(job)),
        device=None if resources.GPU > 0 else "cpu",
        num_threads=max(1, int(resources.CPU)),
    )
    if is_judged_at_end:
        _report_compressed(changed, train, job, result, registry.fetch(job.dataset))


def _reporter(job: SearchJob) -> Callable[[int, dict[str, float]], bool]:
    """``Hooks.on_evaluate``: reports, and stops a trial that has lost its patience."""
    from ray import tune

    from fastserve_ray.training.patience import PatienceCounter

    patience = _patience(job)
    is_enough = None if patience is None else PatienceCounter(patience)

    def on_evaluate(step: int, metrics: dict[str, float]) -> bool:
        _refuse_no_number(metrics[job.objective.metric], step, job)
        tune.report({**metrics, "step": step})
        return is_enough is not None and is_enough(step, metrics)

    return on_evaluate


def _patience(job: SearchJob) -> Patience | None:
    from fastserve_ray.training.work import Patience

    assert job.spec.tune is not None
    evaluations = job.spec.tune.patience
    return None if evaluations is None else Patience(job.objective.metric, job.objective.goal, evaluations)


def _refuse_no_number(value: float, step: int, job: SearchJob) -> None:
    if not math.isfinite(value):
        raise TuneError(f"{job.objective.metric} became {value} in step {step}", key="tune.parameters")


def _report_compressed(changed: RunSpec, train: TrainSpec, job: SearchJob, result: TrainResult, dataset: Path) -> None:
    """One report, at the end: metrics before compression are not comparable with those after it."""
    from ray import tune

    from fastserve_ray.tune.compressed import compressed_metrics

    metrics = compressed_metrics(
        result.model,
        changed.compress,
        task=changed.model.task,
        dataset=dataset,
        batch_size=train.rows_per_pass,
    )
    _refuse_no_number(metrics[job.objective.metric], result.num_steps, job)
    tune.report({**result.metrics, **metrics, "step": result.num_steps})


def _train_on_workers(changed: RunSpec, train: TrainSpec, job: SearchJob, name: str) -> None:
    """Imports no torch: the workers do. A trial that the scheduler stops takes its workers with it."""
    from ray.tune.integration.ray_train import TuneReportCallback

    from fastserve_ray.training.launch import make_trainer, run_trainer
    from fastserve_ray.training.work import Work

    work = Work(
        model=changed.model,
        train=train,
        dataset=job.dataset,
        storage_uri=job.storage_uri,
        run_id=job.run_id,
        stage="tune",
        reports_evaluations=True,
        patience=_patience(job),
    )
    callback: Any = TuneReportCallback()
    trainer = make_trainer(work, name=f"{job.identity}-trial-{name}", callbacks=[callback])
    run_trainer(trainer, max_failures=train.max_failures)
