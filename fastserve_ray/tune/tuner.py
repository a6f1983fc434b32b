"""The ``ray.tune.Tuner`` of a search."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastserve_ray.tune.placement import max_concurrent, refuse_no_room, trial_resources
from fastserve_ray.tune.searchers import make_scheduler, make_searcher
from fastserve_ray.tune.spaces import param_space
from fastserve_ray.tune.trial import run_trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.storage.filesystem import Storage
    from fastserve_ray.tune.settings import SearchJob
    from fastserve_ray.tune.watcher import SearchWatcher

CHECKPOINTS = "checkpoints"
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
}


def make_tuner(job: SearchJob, storage: Storage, watcher: SearchWatcher) -> Any:
    """Its files under ``checkpoints/<artifact id>/ray`` are of no use once it has ended.

    Raises:
        PlacementError: no node has the resources of a trial.
    """
    from ray import tune

    assert job.spec.tune is not None
    folder = f"{CHECKPOINTS}/{job.identity}/ray"
    storage.delete(folder)
    resources = trial_resources(job.spec)
    if not job.spec.cluster.may_grow:
        refuse_no_room(resources)
    function = tune.with_resources(tune.with_parameters(run_trial, job=job), resources)
    return tune.Tuner(
        function,
        param_space=param_space(job.spec.tune.parameters),
        tune_config=tune.TuneConfig(
            metric=job.objective.metric,
            mode=job.objective.mode,
            search_alg=make_searcher(job.spec.tune, list(job.finished.values()), max_concurrent(job.spec)),
            scheduler=make_scheduler(job.spec.tune, job.objective),
            num_samples=job.spec.tune.num_samples,
            reuse_actors=job.spec.tune.workers_per_trial == 1,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=f"{storage.root}/{CHECKPOINTS}/{job.identity}",
            storage_filesystem=None if storage.is_local else storage.filesystem,
            callbacks=[watcher],
            verbose=0,
        ),
    )


@contextmanager
def quiet_tune() -> Iterator[None]:
    """Ray Tune without its tables, log files and signal handler, which it takes from the environment only; settings
    that are there already stay. What matters in its log becomes an event or an error of ours."""
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(added)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name in added:
            os.environ.pop(name, None)
