"""Ray Train's record of registered checkpoints, which it writes in place: a kill in that moment leaves it torn."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.storage.filesystem import Storage

CHECKPOINTS = "checkpoints"
SNAPSHOT = "checkpoint_manager_snapshot.json"

logger = logging.getLogger(__name__)


def drop_damaged_checkpoints(storage: Storage, name: str) -> None:
    """Delete ``checkpoints/<name>`` when its record cannot be read or names checkpoints that are not there: Ray would
    refuse to start, and training from the beginning gives the same model."""
    folder = f"{CHECKPOINTS}/{name}"
    if storage.exists(f"{folder}/{SNAPSHOT}") and not _is_sound(storage, folder):
        logger.warning("the record of checkpoints in %s is damaged: training starts anew", storage.where(folder))
        storage.delete(folder)


def _is_sound(storage: Storage, folder: str) -> bool:
    try:
        record = json.loads(storage.read_bytes(f"{folder}/{SNAPSHOT}"))
        names = [str(result["checkpoint_dir_name"]) for result in record["checkpoint_results"]]
    except (ValueError, KeyError, TypeError):
        return False
    return all(storage.exists(f"{folder}/{name}") for name in names)
