"""What is kept of a failure: one line for the events, the whole traceback in the run's folder."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

from fastserve_ray.errors import FastServeError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.storage.filesystem import Storage

logger = logging.getLogger(__name__)


def describe_failure(error: BaseException) -> str:
    """For people: the error's own words, or its type and message."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    return str(error) if isinstance(error, FastServeError) else f"{type(error).__name__}: {error}"


def save_traceback(storage: Storage, run_id: str, stage: str, error: BaseException, logs: Path | None) -> str | None:
    """Write ``runs/<run id>/errors/<stage>.txt``, and note on the error where it is.

    Returns:
        Where it lies; None for a run that was stopped, or when storage cannot take it.
    """
    if isinstance(error, KeyboardInterrupt):
        return None
    path = f"runs/{run_id}/errors/{stage}.txt"
    text = "".join(traceback.format_exception(error))
    if logs is not None:
        text += f"\nRay's logs: {logs}\n"
    try:
        storage.write_bytes(path, text.encode())
    except StorageError as failed:
        logger.warning("the traceback is not saved: %s", failed.what)
        return None
    error.add_note(f"traceback: {storage.where(path)}")
    if logs is not None:
        error.add_note(f"Ray's logs: {logs}")
    return storage.where(path)
