"""How code below ``run`` reports progress without knowing who listens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.events.log import EventWriter


class Progress(Protocol):
    """Called as often as convenient; must be cheap and must not raise.

    Args:
        step: units done so far.
        total: units in all, None when unknown.
        fields: ``loss``, ``tokens_per_second``, ``learning_rate``, ``message``, ...; None leaves one out.
    """

    def __call__(self, *, step: int, total: int | None, **fields: float | str | None) -> None: ...


def silent(*, step: int, total: int | None, **fields: float | str | None) -> None:
    """A Progress for nobody."""


class EventProgress:
    """A Progress that writes ``stage_progress`` events, a few a second.

    The first call, the last step and a new message are always written.

    Args:
        writer: of the process that makes the progress.
        stage: name of the stage.
        min_interval: seconds between two events.
        clock: for tests.
    """

    def __init__(
        self,
        writer: EventWriter,
        stage: str,
        *,
        min_interval: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._stage = stage
        self._min_interval = min_interval
        self._clock = clock
        self._last_time: float | None = None
        self._last_message: float | str | None = None

    def __call__(self, *, step: int, total: int | None, **fields: float | str | None) -> None:
        now = self._clock()
        message = fields.get("message")
        is_due = self._last_time is None or now - self._last_time >= self._min_interval
        if not (is_due or step == total or message != self._last_message):
            return
        self._last_time = now
        self._last_message = message
        given = {name: value for name, value in fields.items() if value is not None}
        self._writer.emit("stage_progress", self._stage, step=step, total=total, **given)
