"""Writing to a local file system so that a reader, or a reboot, never finds half a file."""

from __future__ import annotations

import os
import shutil
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"
_COPY_BUFFER = 4 * 2**20


def temporary_sibling(path: Path) -> Path:
    """A hidden name beside ``path``; listings leave such names out."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")


def is_temporary(name: str) -> bool:
    """Whether ``name`` was left by a writer that did not finish."""
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, flush to the disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def copy_atomically(source: Path, path: Path) -> None:
    """Copy one file; whoever opens ``path`` sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    try:
        copy_durably(source, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def copy_durably(source: Path, path: Path) -> None:
    """Copy one file and flush it to the disk."""
    with source.open("rb") as reading, path.open("wb") as writing:
        shutil.copyfileobj(reading, writing, _COPY_BUFFER)
        writing.flush()
        os.fsync(writing.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files_below(folder: Path) -> list[Path]:
    """All finished files under ``folder``, in order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not is_temporary(path.name))
