"""The walk over a plan's stages: skip what is published, build the rest, serve the result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.errors import ArtifactError
from fastserve_ray.events.progress import EventProgress
from fastserve_ray.run.context import StageContext, clear_work
from fastserve_ray.run.failure import describe_failure, save_traceback
from fastserve_ray.spec.load import with_overrides
from fastserve_ray.storage.lock import FileLock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.events.log import EventWriter
    from fastserve_ray.lazy import LazyTable
    from fastserve_ray.plan.stages import Plan, PlannedStage
    from fastserve_ray.run.context import Runtime, Served
    from fastserve_ray.storage.filesystem import Storage


@dataclass
class RunResult:
    """What a run came to."""

    run_id: str
    storage: str
    """Path or URI, without credentials."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """Published artifact ids by stage."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """By stage."""
    skipped: list[str] = field(default_factory=list)
    """Stages whose artifacts were there already."""
    served: dict[str, JsonValue] | None = None
    """Fields of the ``served`` event; None when nothing was served."""
    seconds: float = 0.0


class Walk:
    """One pass over a plan; every step of it is an event."""

    def __init__(
        self,
        plan: Plan,
        storage: Storage,
        *,
        run_id: str,
        events: EventWriter,
        stages: LazyTable,
        runtime: Runtime,
    ) -> None:
        self._plan = plan
        self._spec = plan.spec
        self._storage = storage
        self._registry = Registry(storage)
        self._events = events
        self._stages = stages
        self._runtime = runtime
        self._result = RunResult(run_id, storage.where())
        self._manifests: dict[str, Manifest] = {}

    def run(self, *, wait: bool) -> RunResult:
        """Every stage in order; the last one may serve until Ctrl-C."""
        start = time.monotonic()
        self._events.emit("run_started", run_id=self._result.run_id, stages=list(self._plan.names))
        try:
            for stage in self._plan.stages:
                if stage.name == "serve":
                    self._serve(stage, wait=wait)
                else:
                    self._take(stage, self._obtain(stage))
        except BaseException as error:
            self._events.emit("run_failed", error=describe_failure(error))
            raise
        self._result.seconds = time.monotonic() - start
        self._events.emit("run_finished", seconds=self._result.seconds)
        return self._result

    def _obtain(self, stage: PlannedStage) -> Manifest:
        """The stage's artifact: as published before, or built now by this process alone."""
        found = self._registry.find(stage.name, stage.digest)
        if found is None:
            with self._build_lock(stage):
                found = self._registry.find(stage.name, stage.digest)
                if found is None:
                    return self._build(stage)
        clear_work(self._storage, stage.artifact_id)
        self._result.skipped.append(stage.name)
        self._events.emit("stage_skipped", stage.name, artifact=found.id, metrics=found.metrics)
        return found

    def _build(self, stage: PlannedStage) -> Manifest:
        start = time.monotonic()
        with self._reported(stage):
            manifest: Manifest = self._stages.load(stage.name)(self._context(stage), self._runtime)
            if manifest.id != stage.artifact_id:
                raise ArtifactError(
                    f"stage {stage.name} published another artifact than planned",
                    value=manifest.id,
                    allowed=stage.artifact_id,
                )
        seconds = time.monotonic() - start
        self._events.emit("stage_finished", stage.name, artifact=manifest.id, seconds=seconds, metrics=manifest.metrics)
        return manifest

    def _serve(self, stage: PlannedStage, *, wait: bool) -> None:
        start = time.monotonic()
        with self._reported(stage):
            served: Served = self._stages.load(stage.name)(self._context(stage), self._runtime)
        try:
            with self._reported(stage, started=True):
                fields = served.fields()
            self._events.emit("stage_finished", stage.name, artifact=None, seconds=time.monotonic() - start, metrics={})
            self._events.emit("served", stage.name, **fields)
            self._result.served = fields
            if wait:
                served.wait()
        finally:
            served.shutdown()

    def _take(self, stage: PlannedStage, manifest: Manifest) -> None:
        """Keep a result for the stages after it; the best trial's parameters change the spec that they see."""
        self._manifests[stage.name] = manifest
        self._result.artifacts[stage.name] = manifest.id
        self._result.metrics[stage.name] = dict(manifest.metrics)
        best = manifest.info.get("best")
        if stage.name == "tune" and isinstance(best, Mapping):
            self._spec = with_overrides(self._spec, best)

    def _context(self, stage: PlannedStage) -> StageContext:
        return StageContext(
            spec=self._spec,
            stage=stage,
            inputs={name: self._manifests[name] for name in stage.inputs},
            storage=self._storage,
            registry=self._registry,
            run_id=self._result.run_id,
            events=self._events,
            progress=EventProgress(self._events, stage.name),
        )

    @contextmanager
    def _build_lock(self, stage: PlannedStage) -> Iterator[None]:
        """One builder of an artifact at a time on local storage; the second waits, then finds it published."""
        path = self._storage.local_path(f"locks/{stage.artifact_id}.lock")
        if path is None:
            yield
            return
        lock = FileLock(path)
        if not lock.try_acquire():
            message = f"another run builds {stage.artifact_id}; waiting for it"
            self._events.emit("warning", stage.name, message=message)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _reported(self, stage: PlannedStage, *, started: bool = False) -> Iterator[None]:
        """Events around a stage's work; a failure also leaves its traceback in the run's folder."""
        if not started:
            self._events.emit("stage_started", stage.name, artifact=stage.artifact_id)
        try:
            yield
        except BaseException as error:
            path = save_traceback(self._storage, self._result.run_id, stage.name, error, self._runtime.logs)
            self._events.emit("stage_failed", stage.name, error=describe_failure(error), traceback=path)
            raise
