"""The log of a run: every process appends to a file of its own under ``runs/<run id>/events``; readers merge them.

Writing costs the caller an append to a list. A thread writes what gathered: on local storage twice a second by
appending lines, on object stores every five seconds as a new segment, since objects cannot grow.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
import uuid
from typing import TYPE_CHECKING

from fastserve_ray.errors import StorageError
from fastserve_ray.events.event import Event, from_line, to_json, to_line
from fastserve_ray.storage.causes import storage_errors
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

logger = logging.getLogger(__name__)

LOCAL_FLUSH_SECONDS = 0.5
REMOTE_FLUSH_SECONDS = 5.0
MAX_BUFFERED_EVENTS = 10_000
"""Events kept while storage does not answer; the oldest are dropped beyond."""


def events_folder(run_id: str) -> str:
    """Where the log of a run lies in storage."""
    return f"runs/{run_id}/events"


class EventWriter:
    """Appends events of one process. Thread-safe. Never raises after construction: a log that cannot be written is
    reported once by a warning, and the work goes on.

    A pickled writer is its arguments: the copy writes to a file of its own.

    Args:
        storage_uri: of the run's storage.
        run_id: of the run.
        source: who writes, for example "driver" or "train-rank0".
        flush_seconds: how long an event may wait; default by the kind of storage.
    """

    def __init__(self, storage_uri: str, run_id: str, source: str, *, flush_seconds: float | None = None) -> None:
        self.storage_uri = storage_uri
        self.run_id = run_id
        self.source = source
        self._given_flush_seconds = flush_seconds
        self._buffer: list[Event] = []
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._storage: Storage | None = None
        self._num_segments = 0
        self._has_warned = False
        self._file_stem = f"{re.sub(r'[^A-Za-z0-9._-]', '-', source)}-{uuid.uuid4().hex[:8]}"

    def __reduce__(self) -> tuple[object, ...]:
        return (EventWriter, (self.storage_uri, self.run_id, self.source))

    def emit(self, kind: str, stage: str | None = None, **fields: object) -> None:
        """Append an event; all but ``stage_progress`` are written as soon as the thread gets to it."""
        event = Event(time.time(), kind, stage, self.source, {name: to_json(value) for name, value in fields.items()})
        with self._lock:
            self._buffer.append(event)
            del self._buffer[:-MAX_BUFFERED_EVENTS]
            self._start_thread()
        if kind != "stage_progress":
            self._wake.set()

    def flush(self) -> None:
        """Write what gathered; returns when it is in storage, or could not be written."""
        with self._writing:
            with self._lock:
                events, self._buffer = self._buffer, []
            if not events:
                return
            try:
                self._write(b"".join(to_line(event) for event in events))
            except StorageError as error:
                self._keep(events, error)

    def close(self) -> None:
        """Write the rest and stop the thread; a second call does nothing."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            atexit.unregister(self.close)
        self.flush()

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start_thread(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name=f"events-{self.source}", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._flush_seconds())
            self._wake.clear()
            self.flush()

    def _flush_seconds(self) -> float:
        if self._given_flush_seconds is not None:
            return self._given_flush_seconds
        is_local = self._storage is None or self._storage.is_local
        return LOCAL_FLUSH_SECONDS if is_local else REMOTE_FLUSH_SECONDS

    def _keep(self, events: Sequence[Event], error: StorageError) -> None:
        with self._lock:
            self._buffer = [*events, *self._buffer][-MAX_BUFFERED_EVENTS:]
        if not self._has_warned:
            self._has_warned = True
            logger.warning("events of %s are not written for now: %s", self.source, error)

    def _write(self, data: bytes) -> None:
        if self._storage is None:
            self._storage = Storage.open(self.storage_uri)
        stem = f"{events_folder(self.run_id)}/{self._file_stem}"
        path = self._storage.local_path(f"{stem}.jsonl")
        if path is not None:
            _append(path, data)
        else:
            self._storage.write_bytes(f"{stem}-{self._num_segments:06d}.jsonl", data)
            self._num_segments += 1


def _append(path: Path, data: bytes) -> None:
    with storage_errors("write", str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if os.write(descriptor, data) < len(data):
                os.ftruncate(descriptor, size)  # the whole batch is written again later
                raise OSError(28, "No space left on device")
        finally:
            os.close(descriptor)


class EventReader:
    """Reads the events of a run while it is written, and afterwards."""

    def __init__(self, storage_uri: str, run_id: str) -> None:
        self._storage = Storage.open(storage_uri)
        self._folder = events_folder(run_id)
        self._offsets: dict[str, int] = {}

    def poll(self) -> list[Event]:
        """Events that were added since the last call, in order of their times. A torn last line waits for its end.

        Raises:
            StorageError: the log cannot be read.
        """
        events: list[Event] = []
        for file in self._storage.list_files(self._folder, recursive=False):
            if file.size > self._offsets.get(file.path, 0):
                events += self._read_new(file.path)
        return sorted(events, key=lambda event: event.time)

    def _read_new(self, path: str) -> list[Event]:
        offset = self._offsets.get(path, 0)
        data = self._storage.read_bytes(path, offset=offset)
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[path] = offset + len(whole)
        return [event for line in whole.splitlines() if (event := from_line(line)) is not None]
