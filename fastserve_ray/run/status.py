"""How far the runs in a storage are, from their records, their events and the published artifacts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from fastserve_ray.artifacts.records import RunRecord, list_runs
from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.events.log import EventReader
from fastserve_ray.run.view import RunView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.events.event import Event
    from fastserve_ray.run.view import StageView
    from fastserve_ray.storage.filesystem import Storage

RunState = Literal["running", "serving", "finished", "failed", "killed", "unknown"]


@dataclass(frozen=True)
class StageStatus:
    """One stage of a run."""

    name: str
    state: str
    """published, running, failed or to do; for ``serve``: running, served, failed or to do."""
    artifact: str | None
    seconds: float | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class RunStatus:
    """One run."""

    run_id: str
    created: str
    state: RunState
    """killed: the process is gone without a word. unknown: it runs, or ran, on another machine."""
    stages: tuple[StageStatus, ...]
    last_event: str | None
    last_event_time: float | None
    error: str | None

    def to_json(self) -> dict[str, JsonValue]:
        """For programs."""
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages]}


def read_status(storage: Storage, *, name: str | None = None, last: int = 5) -> list[RunStatus]:
    """The latest runs (of ``name``), the oldest first."""
    published = {manifest.id: manifest for manifest in Registry(storage).list()}
    return [_status(storage, record, published) for record in list_runs(storage, name)[-last:]]


def _status(storage: Storage, record: RunRecord, published: Mapping[str, Manifest]) -> RunStatus:
    events = EventReader(storage.uri, record.run_id).poll()
    view = RunView()
    for event in events:
        view.apply(event)
    stages = [
        _stage(stage, artifact, view.stages.get(stage), published.get(artifact))
        for stage, artifact in record.stages.items()
    ]
    if "serve" in view.stages:
        stages.append(_stage("serve", None, view.stages["serve"], None))
    latest = events[-1] if events else None
    return RunStatus(
        run_id=record.run_id,
        created=record.created,
        state=_state(record, events),
        stages=tuple(stages),
        last_event=None if latest is None else " ".join(filter(None, (latest.stage, latest.kind))),
        last_event_time=None if latest is None else latest.time,
        error=next((str(event.fields.get("error")) for event in events if event.kind == "run_failed"), None),
    )


def _stage(name: str, artifact: str | None, view: StageView | None, manifest: Manifest | None) -> StageStatus:
    seconds = None if view is None or view.ended is None or view.status == "skipped" else view.ended - view.started
    if manifest is not None:
        return StageStatus(name, "published", manifest.id, seconds, dict(manifest.metrics))
    state = "to do" if view is None else "served" if view.status == "finished" else view.status
    return StageStatus(name, state, artifact, seconds, {})


def _state(record: RunRecord, events: list[Event]) -> RunState:
    kinds = {event.kind for event in events}
    if "run_failed" in kinds:
        return "failed"
    if "run_finished" in kinds:
        return "finished"
    if record.is_alive is None:
        return "unknown"
    if not record.is_alive:
        return "killed"
    return "serving" if "served" in kinds else "running"
