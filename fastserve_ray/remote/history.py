"""What was deployed before: one file for each version of an application, in the run's storage."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.storage.filesystem import Storage

Outcome = Literal["deploying", "running", "failed", "found"]
"""``found``: it ran before the first one that is recorded here."""

_DECISIVE = ("import_path", "args")


@dataclass(frozen=True)
class Version:
    """One that was put into a cluster."""

    number: int
    time: float
    """Seconds since the epoch."""
    outcome: Outcome
    config: dict[str, Any]
    """The whole Serve config with this application alone."""

    @property
    def application(self) -> Mapping[str, Any]:
        """The entry of the one application."""
        entry: Mapping[str, Any] = self.config["applications"][0]
        return entry

    def is_like(self, config: Mapping[str, Any] | None) -> bool:
        """Whether ``config``, an application as Serve tells it, runs the same; Serve writes out what was left out."""
        return config is not None and all(self.application.get(key) == config.get(key) for key in _DECISIVE)

    @property
    def has_run(self) -> bool:
        return self.outcome in ("running", "found")


class History:
    """The versions of one application, the first one numbered 1. Methods raise StorageError."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._folder = f"serve/{quote(name, safe='')}"

    def versions(self) -> list[Version]:
        """In order of their numbers."""
        files = self._storage.list_files(self._folder, recursive=False)
        return sorted((self._read(file.path) for file in files), key=lambda version: version.number)

    def add(self, config: Mapping[str, Any], outcome: Outcome) -> Version:
        """Record a version under the next number."""
        number = max((version.number for version in self.versions()), default=0) + 1
        version = Version(number, time.time(), outcome, dict(config))
        self.write(version)
        return version

    def write(self, version: Version) -> None:
        """Record it, or its new outcome."""
        fields: dict[str, Any] = {"number": version.number, "time": version.time, "outcome": version.outcome}
        self._storage.write_json(f"{self._folder}/{version.number:06d}.json", {**fields, "config": version.config})

    def before(self, current: Mapping[str, Any] | None, number: int | None = None) -> Version:
        """The version to go back to: ``number``, else the latest that has run and is not ``current``.

        Raises:
            UsageError: there is none.
        """
        versions = self.versions()
        for version in reversed(versions):
            if version.number == number or (number is None and version.has_run and not version.is_like(current)):
                return version
        words = "; ".join(f"{version.number} ({version.outcome})" for version in versions)
        raise UsageError(
            "there is no such version to go back to" if number is not None else "no version before this one has run",
            value=number,
            allowed=words or "nothing was deployed from this storage yet",
            key="--to",
        )

    def _read(self, path: str) -> Version:
        fields: Any = self._storage.read_json(path)
        return Version(int(fields["number"]), float(fields["time"]), fields["outcome"], fields["config"])
