"""Watches a search from the driver: records, events and TensorBoard files of its trials."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from fastserve_ray.events.tensorboard import TENSORBOARD
from fastserve_ray.tune.records import Report, TrialRecord, TrialStatus, key_of
from fastserve_ray.tune.report import best_of, describe, score
from fastserve_ray.tune.tensorboard import TrialBoard
from fastserve_ray.tune.trial import FAILED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ray.tune.experiment import Trial

    from fastserve_ray.events.log import EventWriter
    from fastserve_ray.spec.base import Scalar
    from fastserve_ray.storage.filesystem import Storage
    from fastserve_ray.tune.records import TrialStore
    from fastserve_ray.tune.settings import SearchJob

METRIC_NAMES = ("train_loss", "tokens_per_second", "seconds")
METRIC_PREFIX = "eval_"


@dataclass
class _Running:
    name: str
    parameters: dict[str, Scalar]
    board: TrialBoard
    reports: list[Report] = field(default_factory=list)
    failure: str | None = None
    seconds: float = 0.0


class SearchWatcher(Callback):
    """A callback of Ray Tune; called in the driver, one event at a time.

    Args:
        total: trials in all.
        num_steps: optimizer steps of a trial with the given parameters.
    """

    def __init__(
        self,
        job: SearchJob,
        *,
        total: int,
        storage: Storage,
        store: TrialStore,
        events: EventWriter,
        num_steps: Callable[[Mapping[str, Scalar]], int],
    ) -> None:
        self._job = job
        self._total = total
        self._storage = storage
        self._store = store
        self._events = events
        self._num_steps = num_steps
        self._running: dict[str, _Running] = {}
        self.records: list[TrialRecord] = []

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        running = self._start(trials, trial)
        self._progress(f"{running.name} starts with {describe(running.parameters)}")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        running = self._running[trial.trial_id]
        running.seconds = float(result.get("time_total_s", 0.0))
        if FAILED in result:
            running.failure = str(result[FAILED])
            return
        report = Report(step=int(result["step"]), metrics=_metrics(result))
        running.reports.append(report)
        running.board.add(report.step, report.metrics)
        value = report.metrics.get(self._job.objective.metric, float("nan"))
        self._progress(f"{running.name} step {report.step}: {self._job.objective.metric} {value:.4g}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Its process died, perhaps before it had started, or raised something that is none of our errors."""
        running = self._running.get(trial.trial_id) or self._start(trials, trial)
        running.failure = _last_line(trial)
        self._end(trial)

    def _start(self, trials: list[Trial], trial: Trial) -> _Running:
        """``trials`` are in the order in which the searcher drew them; they need not start in it."""
        name = f"trial-{[drawn.trial_id for drawn in trials].index(trial.trial_id):03d}"
        parameters = dict(trial.config)
        board = TrialBoard(self._storage, f"{TENSORBOARD}/{self._job.identity}/{name}", parameters)
        self._running[trial.trial_id] = running = _Running(name, parameters, board)
        return running

    def _end(self, trial: Trial) -> None:
        """A failed trial is not kept: its cause may be gone at the next try."""
        running = self._running.pop(trial.trial_id, None)
        if running is None:
            return
        earlier = self._job.finished.get(key_of(running.parameters))
        record = self._record(running) if earlier is None else earlier.model_copy(update={"trial": running.name})
        running.board.finish(record)
        self.records.append(record)
        if record.status != "failed":
            self._store.save(record)
        self._events.emit(
            "trial_finished",
            "tune",
            trial=record.trial,
            parameters=record.parameters,
            metrics=record.metrics,
            status=record.status,
            error=record.error,
        )
        self._progress(None)

    def _record(self, running: _Running) -> TrialRecord:
        last = running.reports[-1] if running.reports else Report(step=0, metrics={})
        failure = running.failure
        if failure is None and self._job.objective.value(last.metrics) is None:
            failure = f"{self._job.objective.metric} is no finite number in step {last.step}"
        return TrialRecord(
            trial=running.name,
            parameters=running.parameters,
            status=self._status(running, last, failure),
            steps=last.step,
            seconds=round(running.seconds, 3),
            metrics=last.metrics,
            reports=tuple(running.reports),
            error=failure,
        )

    def _status(self, running: _Running, last: Report, failure: str | None) -> TrialStatus:
        if failure is not None:
            return "failed"
        return "finished" if last.step >= self._num_steps(running.parameters) else "stopped"

    def _progress(self, message: str | None) -> None:
        """How many trials are done, the best so far, and what has just happened."""
        objective = self._job.objective
        best = best_of(self.records, objective)
        parts = [message]
        if best is not None:
            value = score(best, objective)
            parts.append(f"best {objective.metric} {value:.4g} with {describe(best.parameters)}")
        text = "; ".join(part for part in parts if part)
        self._events.emit("stage_progress", "tune", step=len(self.records), total=self._total, message=text)


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Our own figures, without those that Ray Tune adds."""
    return {
        name: float(value)
        for name, value in result.items()
        if (name.startswith(METRIC_PREFIX) or name in METRIC_NAMES) and isinstance(value, int | float)
    }


def _last_line(trial: Trial) -> str:
    """Of the traceback that Ray Tune has just written on this machine; it reaches storage only later."""
    file = Path(trial.error_file) if trial.error_file else None
    lines = file.read_text().strip().splitlines() if file is not None and file.exists() else []
    return lines[-1].strip() if lines else "the trial's process died"
