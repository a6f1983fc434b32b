"""One event, and its line in a log."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    Kinds: run_started, run_finished, run_failed(error), stage_started, stage_skipped(artifact),
    stage_progress(step, total, loss?, tokens_per_second?, step_seconds?, mfu?, memory_bytes?, learning_rate?,
    message?), stage_metrics(metrics),
    stage_finished(artifact, seconds, metrics), stage_failed(error), trial_finished(trial, parameters, metrics),
    checkpoint_written(step, seconds, megabytes), shares_changed(step, shares, gain, seconds_before, seconds_after),
    warning(message), served(url, ...).
    """

    time: float
    """Seconds since the epoch, by the clock of the machine that wrote it."""
    kind: str
    stage: str | None
    """None for events of the whole run."""
    source: str
    """Who wrote it, for example "driver" or "train-rank0"."""
    fields: dict[str, JsonValue] = field(default_factory=dict)


def to_line(event: Event) -> bytes:
    """JSON and a newline; numbers that JSON does not know become "nan", "inf" and "-inf"."""
    record = {"time": event.time, "kind": event.kind, "stage": event.stage, "source": event.source}
    return (json.dumps({**record, "fields": event.fields}, ensure_ascii=False, allow_nan=False) + "\n").encode()


def from_line(line: bytes) -> Event | None:
    """The event of a line; None when it is torn or of another form."""
    try:
        record = json.loads(line)
        return Event(
            float(record["time"]), str(record["kind"]), record["stage"], str(record["source"]), dict(record["fields"])
        )
    except (ValueError, KeyError, TypeError):
        return None


def to_json(value: object) -> JsonValue:
    """``value`` as JSON: containers are walked, numpy's scalars become numbers, what is not JSON its ``str``."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [to_json(item) for item in value]
    scalar = getattr(value, "item", None)
    return to_json(scalar()) if callable(scalar) else str(value)
