"""The outcome of a search: which trial is the best, and a table of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.errors import TuneError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.spec.base import Scalar
    from fastserve_ray.tune.objective import Objective
    from fastserve_ray.tune.records import TrialRecord

_SHOWN_CAUSES = 3


def best_of(records: Sequence[TrialRecord], objective: Objective) -> TrialRecord | None:
    """The trial whose last report is the best, since the last weights are what training keeps; of equals the first.

    Failed trials are worse than any. None when there is no other.
    """
    best: TrialRecord | None = None
    for record in sorted(records, key=lambda record: record.trial):
        value = score(record, objective)
        if value is None:
            continue
        than = None if best is None else score(best, objective)
        if than is None or objective.is_better(value, than):
            best = record
    return best


def score(record: TrialRecord, objective: Objective) -> float | None:
    """The metric of a trial's last report; None for a failed trial."""
    return None if record.status == "failed" else objective.value(record.metrics)


def all_failed(records: Sequence[TrialRecord]) -> TuneError:
    """The error of a search without a single result."""
    causes = list(dict.fromkeys((record.error or "no report").splitlines()[0] for record in records))
    more = f"; and {len(causes) - _SHOWN_CAUSES} more" if len(causes) > _SHOWN_CAUSES else ""
    count = len(records)
    return TuneError(
        f"all {count} trials failed" if count != 1 else "the only trial failed",
        value="; ".join(causes[:_SHOWN_CAUSES]) + more,
        key="tune.parameters",
        hint="search smaller learning rates, or see whether the run works without `tune`",
    )


def markdown(records: Sequence[TrialRecord], objective: Objective, best: TrialRecord) -> str:
    """A table of the trials, the best first, failed ones last."""
    paths = sorted({path for record in records for path in record.parameters})
    header = ["trial", *paths, objective.metric, "steps", "seconds", "status"]
    lines = [
        f"# Search: {objective.goal} {objective.metric}",
        "",
        f"Best: {best.trial} with {describe(best.parameters)}",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(_cells(record, paths, objective)) + " |" for record in _ranked(records, objective)),
    ]
    causes = [f"- {record.trial}: {record.error.splitlines()[0]}" for record in records if record.error]
    return "\n".join([*lines, *(["", "Failed:", "", *causes] if causes else []), ""])


def describe(parameters: dict[str, Scalar]) -> str:
    """``train.learning_rate=0.00213``."""
    return ", ".join(f"{path}={_number(value)}" for path, value in sorted(parameters.items()))


def _ranked(records: Sequence[TrialRecord], objective: Objective) -> list[TrialRecord]:
    sign = 1.0 if objective.goal == "minimize" else -1.0

    def rank(record: TrialRecord) -> tuple[bool, float, str]:
        value = score(record, objective)
        return value is None, 0.0 if value is None else sign * value, record.trial

    return sorted(records, key=rank)


def _cells(record: TrialRecord, paths: Sequence[str], objective: Objective) -> list[str]:
    value = score(record, objective)
    return [
        record.trial,
        *(_number(record.parameters.get(path, "")) for path in paths),
        "" if value is None else _number(value),
        str(record.steps),
        f"{record.seconds:.1f}",
        record.status,
    ]


def _number(value: Scalar) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
