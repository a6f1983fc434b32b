"""The search: Ray Tune runs the trials, the driver watches, and the outcome is published."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.artifacts.manifest import artifact_id
from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.events.log import EventWriter
from fastserve_ray.plan.settings import stage_settings
from fastserve_ray.spec.load import with_overrides
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.tune.objective import objective_of
from fastserve_ray.tune.records import TrialStore
from fastserve_ray.tune.report import all_failed, best_of, markdown
from fastserve_ray.tune.settings import SearchJob, trial_spec, trial_train, tunes_compression
from fastserve_ray.tune.spaces import num_trials
from fastserve_ray.tune.tuner import CHECKPOINTS, make_tuner, quiet_tune

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import JsonValue

    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.spec.base import Scalar
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.tune.objective import Objective
    from fastserve_ray.tune.records import TrialRecord


def search_on_ray(
    spec: RunSpec, *, dataset: str, digest: str, parents: Mapping[str, str], storage_uri: str, run_id: str
) -> Manifest:
    """Search ``spec.tune.parameters`` with Ray Tune and publish what was found. Ray must be initialised.

    Trials that an earlier try of the same search finished are not run again. Events: ``trial_finished`` for each
    trial, ``stage_progress`` with the best so far. TensorBoard files: ``tensorboard/<artifact id>/<trial>``.

    Args:
        dataset: artifact id of a prepared dataset.
        digest: of all that decides the result.
        parents: artifact ids by stage, for the manifest.

    Returns:
        an artifact of kind "tuning": ``trials.json`` (every trial), ``report.md``; ``info.best`` has the best
        parameters by dotted path, ``metrics`` those of that trial's last report.

    Raises:
        TuneError: every trial failed.
        PlacementError: no node has the resources of a trial.
    """
    assert spec.tune is not None, "the plan has a tune stage only where the spec has a tune section"
    storage = Storage.open(storage_uri)
    registry = Registry(storage)
    identity = artifact_id("tune", digest)
    published = registry.find("tune", digest)
    if published is None:
        store = TrialStore(storage, f"{CHECKPOINTS}/{identity}")
        job = SearchJob(
            identity=identity,
            spec=_with_absolute_base(spec),
            dataset=dataset,
            num_rows=PreparedDataset.open(registry.fetch(dataset)).info.num_train,
            storage_uri=storage.uri,
            run_id=run_id,
            objective=objective_of(spec),
            finished=store.load(),
        )
        records = _run_trials(job, storage, store)
        settings = stage_settings(spec, "tune")
        published = _publish(job.objective, records, registry, digest=digest, parents=parents, settings=settings)
    _delete_checkpoints(storage, identity)
    return published


def _run_trials(job: SearchJob, storage: Storage, store: TrialStore) -> list[TrialRecord]:
    from fastserve_ray.tune.watcher import SearchWatcher

    assert job.spec.tune is not None
    total = num_trials(job.spec.tune)
    with EventWriter(storage.uri, job.run_id, "tune") as events:
        events.emit("stage_progress", "tune", step=0, total=total, message=_first_message(job))
        for message in _ignored(job.spec):
            events.emit("warning", "tune", message=message)
        watcher = SearchWatcher(
            job,
            total=total,
            storage=storage,
            store=store,
            events=events,
            num_steps=lambda parameters: _num_steps(job, parameters),
        )
        with quiet_tune():
            make_tuner(job, storage, watcher).fit()
    return sorted(watcher.records, key=lambda record: record.trial)


def _publish(
    objective: Objective,
    records: list[TrialRecord],
    registry: Registry,
    *,
    digest: str,
    parents: Mapping[str, str],
    settings: Mapping[str, JsonValue],
) -> Manifest:
    best = best_of(records, objective)
    if best is None:
        raise all_failed(records)
    with tempfile.TemporaryDirectory(prefix="fastserve-tune-") as name:
        folder = Path(name)
        trials = [record.model_dump(mode="json") for record in records]
        (folder / "trials.json").write_text(json.dumps(trials, indent=2) + "\n")
        (folder / "report.md").write_text(markdown(records, objective, best))
        return registry.publish(
            folder,
            kind="tuning",
            stage="tune",
            digest=digest,
            parents=parents,
            spec=settings,
            metrics=best.metrics,
            info={
                "best": dict(best.parameters),
                "trial": best.trial,
                "metric": objective.metric,
                "goal": objective.goal,
                "num_trials": len(records),
                "num_failed": sum(record.status == "failed" for record in records),
            },
        )


def _num_steps(job: SearchJob, parameters: Mapping[str, Scalar]) -> int:
    train = trial_train(job.spec, trial_spec(job.spec, parameters), job.num_rows)
    assert train.max_steps is not None
    return train.max_steps


def _ignored(spec: RunSpec) -> Iterator[str]:
    """Settings that have no effect in this search."""
    assert spec.tune is not None
    if tunes_compression(spec):
        given = [name for name in ("patience", "eval_every_steps") if getattr(spec.tune, name) is not None]
        given += ["scheduler"] if spec.tune.scheduler == "asha" else []
        if given:
            names = " and ".join(f"tune.{name}" for name in given)
            yield f"{names} cannot act: a search over compress.* has one report a trial, after compression"


def _first_message(job: SearchJob) -> str:
    known = len(job.finished)
    return f"{known} trials were finished by an earlier try" if known else "starting the first trials"


def _delete_checkpoints(storage: Storage, identity: str) -> None:
    for name in storage.list_folders(CHECKPOINTS):
        if name == identity or name.startswith(f"{identity}-trial-"):
            storage.delete(f"{CHECKPOINTS}/{name}")


def _with_absolute_base(spec: RunSpec) -> RunSpec:
    """Trials have another working directory."""
    base = spec.model.base
    if base is None or not Path(base).expanduser().is_dir():
        return spec
    return with_overrides(spec, {"model.base": str(Path(base).expanduser().absolute())})
