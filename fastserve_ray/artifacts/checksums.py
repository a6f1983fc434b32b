"""sha256 of files, and comparison of a folder with its manifest."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fastserve_ray.artifacts.manifest import FileEntry, Manifest
from fastserve_ray.storage.causes import storage_errors
from fastserve_ray.storage.local import files_below

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_NAME = "manifest.json"
"""Never listed in the manifest itself."""


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_files(folder: Path) -> tuple[FileEntry, ...]:
    """Every file under ``folder`` but the manifest, in order of their paths."""
    with storage_errors("read", str(folder)):
        return tuple(
            FileEntry(
                path=path.relative_to(folder).as_posix(),
                size=path.stat().st_size,
                sha256=sha256_of(path),
            )
            for path in files_below(folder)
            if path != folder / MANIFEST_NAME
        )


def damages(folder: Path, manifest: Manifest, *, content: bool) -> list[str]:
    """How ``folder`` differs from ``manifest``, one sentence a file; empty when it is whole.

    Args:
        content: also compare sha256, which reads every byte; without it only presence and size.
    """
    found = (_damage(folder / entry.path, entry, content) for entry in manifest.files)
    return [damage for damage in found if damage is not None]


def _damage(path: Path, entry: FileEntry, content: bool) -> str | None:
    if not path.is_file():
        return f"{entry.path} is missing"
    if path.stat().st_size != entry.size:
        return f"{entry.path} has {path.stat().st_size} bytes, not {entry.size}"
    if content and sha256_of(path) != entry.sha256:
        return f"{entry.path} has another sha256 than when it was published"
    return None
