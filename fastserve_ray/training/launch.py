"""Training on Ray Train: starts the workers, restarts lost ones, and says in one error why it could not.

Imports neither torch nor transformers: only the workers pay for them.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray.artifacts.manifest import Manifest, artifact_id
from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.errors import FastServeError
from fastserve_ray.plan.digest import stage_digest
from fastserve_ray.plan.settings import resume_settings, stage_settings
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.checkpoint.find import CHECKPOINTS, delete_all, prepare
from fastserve_ray.training.explain import explain_failure
from fastserve_ray.training.work import Publication, Work

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic import JsonValue
    from ray.train import Result, UserCallback
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from fastserve_ray.spec import ModelSpec, RunSpec

MAX_START_FAILURES = 10
"""How often a group of workers may fail to start, a minute each, before the stage fails."""
_POLL_SECONDS = "0.25"
"""Ray's controller asks its workers this often; its default of 2 s is what each run would wait at its end."""


def train_on_ray(
    spec: RunSpec,
    *,
    dataset: str,
    digest: str,
    parents: Mapping[str, str],
    storage_uri: str,
    run_id: str,
    stage: str = "train",
    fingerprints: Mapping[str, JsonValue] | None = None,
) -> Manifest:
    """Train ``spec.model`` on ``spec.train.parallel.num_ranks`` Ray Train workers and publish the model.

    Goes on from the last checkpoint that an earlier try left: one that was spread in the same way makes the result the
    same to the bit, one with other workers or another strategy within rounding. Ray must be initialised.

    Args:
        dataset: artifact id of a prepared dataset.
        digest: of all that decides the result.
        parents: artifact ids by stage, for the manifest.
        fingerprints: identities of outside inputs, by the key that names them.

    Returns:
        the published model; its ``metrics`` hold ``eval_*``, ``train_loss``, ``seconds`` and ``tokens_per_second``.

    Raises:
        TrainingError: the loss is no longer a number, memory ended, or more workers were lost than
            ``train.max_failures`` allows.
        PlacementError: the cluster never had room for the workers.
        ModelError, DataError, StorageError: from a worker.
    """
    assert spec.train is not None, "the plan has a train stage only where the spec has a train section"
    storage = Storage.open(storage_uri)
    registry = Registry(storage)
    identity = artifact_id(stage, digest)
    published = registry.find(stage, digest)
    if published is None:
        learned = _learned(spec, dataset, fingerprints or {})
        work = Work(
            model=_with_absolute_base(spec.model),
            train=spec.train,
            dataset=dataset,
            storage_uri=storage.uri,
            run_id=run_id,
            stage=stage,
            resume_from=prepare(storage, identity, learned),
            publication=Publication(digest, dict(parents), stage_settings(spec, "train")),
        )
        published = _published(run_trainer(make_trainer(work, name=identity), max_failures=spec.train.max_failures))
        delete_all(storage, identity, learned)
    return published


def _learned(spec: RunSpec, dataset: str, fingerprints: Mapping[str, JsonValue]) -> str:
    """Digest of all that decides what is learned, however it is spread. A search counts by what it found, which is in
    the spec."""
    return stage_digest("train", settings=resume_settings(spec), parents={"data": dataset}, fingerprints=fingerprints)


def make_trainer(work: Work, *, name: str, callbacks: Sequence[UserCallback] = ()) -> DataParallelTrainer:
    """A Ray Train V2 trainer of ``work``; ``fit`` gives a Result whose ``return_value`` is that of ``train_worker``.

    Args:
        name: of the folder under ``checkpoints/``; restarted workers go on from its last checkpoint.
        callbacks: for example ``TuneReportCallback``, with ``work.reports_evaluations``.
    """
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from fastserve_ray.training.process_group import ProcessGroupConfig
    from fastserve_ray.training.worker import train_worker

    train, storage = work.train, Storage.open(work.storage_uri)
    uses_gpu = train.resources_per_worker.GPU > 0
    return DataParallelTrainer(
        train_worker,
        train_loop_config={"work": work},
        backend_config=ProcessGroupConfig(uses_gpu=uses_gpu),
        scaling_config=ScalingConfig(
            num_workers=train.parallel.num_ranks,
            use_gpu=uses_gpu,
            resources_per_worker={
                key: value for key, value in train.resources_per_worker.model_dump().items() if value
            },
        ),
        run_config=RunConfig(
            name=name,
            storage_path=f"{storage.root}/{CHECKPOINTS}",
            storage_filesystem=None if storage.is_local else storage.filesystem,
            failure_config=FailureConfig(max_failures=train.max_failures, controller_failure_limit=MAX_START_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=train.checkpoint.keep),
            callbacks=list(callbacks),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def run_trainer(trainer: DataParallelTrainer, *, max_failures: int) -> Any:
    """Train; what ``train_worker`` returned on worker 0.

    Raises:
        FastServeError: the one that a worker met, or a TrainingError that says what Ray met.
    """
    from ray.train.v2.api.exceptions import TrainingFailedError

    try:
        with _ray_train_settings():
            outcome = _fit_in_thread(trainer).return_value
    except TrainingFailedError as error:
        raise explain_failure(error, max_failures=max_failures) from error
    if isinstance(outcome, FastServeError):
        raise outcome
    return outcome


def _published(outcome: Any) -> Manifest:
    assert isinstance(outcome, Manifest), outcome
    return outcome


def _fit_in_thread(trainer: DataParallelTrainer) -> Result:
    """In the main thread Ray would put its own handler in the place of the driver's, for good."""
    future: Future[Result] = Future()

    def fit() -> None:
        try:
            future.set_result(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            future.set_exception(error)

    threading.Thread(target=fit, name="ray-train", daemon=True).start()
    return future.result()


@contextmanager
def _ray_train_settings() -> Iterator[None]:
    """Ray reads these from the environment only, and hands them to the controller when it starts."""
    import ray

    settings = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": _POLL_SECONDS}
    if len(ray.nodes()) == 1:
        settings["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # one process less: a lone node takes the run along
    added = [name for name in settings if name not in os.environ]
    os.environ.update({name: settings[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _with_absolute_base(model: ModelSpec) -> ModelSpec:
    """Workers have another working directory."""
    if model.base is None or not Path(model.base).expanduser().is_dir():
        return model
    return type(model).model_validate({**model.model_dump(), "base": str(Path(model.base).expanduser().absolute())})
