"""The file of keys while the server runs: whoever changes it needs no new deployment."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from fastserve_ray.errors import SpecError
from fastserve_ray.spec.access import AuthSpec
from fastserve_ray.spec.keys import load_keys

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.serve.auth.table import KeyTable

logger = logging.getLogger("ray.serve")

LOOK_EVERY_S = 2.0


class KeysWatch:
    """Reads the file again when it has changed. One that is wrong, or gone, leaves the keys as they are, and is told
    in the log.

    Args:
        table: what the door looks into.
    """

    def __init__(self, file: Path, table: KeyTable) -> None:
        self._file = file
        self._table = table
        self._seen: object = None

    def start(self) -> None:
        """Look now, and from time to time as long as the process lives."""
        self.look()
        threading.Thread(target=self._run, name="fastserve-keys", daemon=True).start()

    def look(self) -> None:
        """Read the file, if it is another one than at the last look."""
        found = self._state()
        if found == self._seen:
            return
        self._seen = found
        try:
            self._table.replace(load_keys(AuthSpec(keys_file=str(self._file))))
        except SpecError as error:
            logger.error("the file of keys is wrong; the keys stay as they were: %s", error)

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            self.look()

    def _state(self) -> object:
        try:
            stat = self._file.stat()
        except OSError as error:
            return type(error)
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
