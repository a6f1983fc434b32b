"""Shows a run while it runs: a thread reads the run's events and hands them to a renderer."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Protocol, TextIO

from fastserve_ray.errors import StorageError

if TYPE_CHECKING:
    from types import TracebackType

    from fastserve_ray.events.event import Event
    from fastserve_ray.events.log import EventReader

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
REMOTE_POLL_SECONDS = 2.0


class Renderer(Protocol):
    """Shows events; one thread at a time calls it."""

    def show(self, events: list[Event]) -> None:
        """Events since the last call, perhaps none."""
        ...

    def close(self) -> None:
        """The last state stays visible."""
        ...


def renderer_for(stream: TextIO) -> Renderer:
    """Live lines on a terminal, plain lines elsewhere."""
    if stream.isatty():
        from rich.console import Console

        from fastserve_ray.run.render_live import LiveRenderer

        return LiveRenderer(Console(file=stream))
    from fastserve_ray.run.render_plain import PlainRenderer

    return PlainRenderer(stream)


class ProgressThread:
    """Polls a run's events until it is closed; ``close`` shows what came last.

    Args:
        reader: of the run.
        renderer: what shows the events.
        poll_seconds: between two looks at the log.
    """

    def __init__(self, reader: EventReader, renderer: Renderer, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._reader = reader
        self._renderer = renderer
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> ProgressThread:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._poll()
        self._renderer.close()

    def _run(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self._poll()

    def _poll(self) -> None:
        try:
            self._renderer.show(self._reader.poll())
        except StorageError as error:
            logger.debug("the run's log cannot be read now: %s", error)
