"""How an artifact becomes visible: all at once, or not at all.

Local storage: files and manifest go to a hidden folder that is then renamed. Object stores cannot rename a folder:
files first, manifest last. Whatever a killed publisher left is cleared by the next one.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from typing import TYPE_CHECKING

from fastserve_ray.artifacts.checksums import MANIFEST_NAME
from fastserve_ray.storage.causes import storage_errors
from fastserve_ray.storage.local import copy_durably, sync_folder, write_atomically
from fastserve_ray.storage.lock import FileLock

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.storage.filesystem import Storage

ARTIFACTS = "artifacts"
_STAGING = ".staging"


def publish_files(storage: Storage, folder: Path, manifest: Manifest) -> None:
    """Copy the files of ``folder`` that ``manifest`` lists, and the manifest, to ``artifacts/<id>``.

    When another process published the same id first, nothing changes.
    """
    root = storage.local_path(ARTIFACTS)
    if root is None:
        _publish_remote(storage, folder, manifest)
        return
    with storage_errors("publish to", str(root / manifest.id)):
        _publish_local(root, folder, manifest)


def manifest_path(artifact: str) -> str:
    """Where the manifest of an artifact id lies in storage."""
    return f"{ARTIFACTS}/{artifact}/{MANIFEST_NAME}"


def _publish_remote(storage: Storage, folder: Path, manifest: Manifest) -> None:
    target = f"{ARTIFACTS}/{manifest.id}"
    storage.delete(target)
    for entry in manifest.files:
        storage.upload(folder / entry.path, f"{target}/{entry.path}")
    storage.write_bytes(manifest_path(manifest.id), _as_json(manifest))


def _publish_local(root: Path, folder: Path, manifest: Manifest) -> None:
    staging = root / _STAGING
    name = f"{manifest.id}-{uuid.uuid4().hex[:8]}"
    owner = FileLock(staging / f"{name}.lock")
    with FileLock(staging / "lock"):
        _clear_abandoned(staging)
        owner.acquire()
    try:
        _fill(staging / name, folder, manifest)
        with FileLock(staging / "lock"):
            _rename(staging / name, root / manifest.id)
        sync_folder(root)
    finally:
        shutil.rmtree(staging / name, ignore_errors=True)
        (staging / f"{name}.lock").unlink(missing_ok=True)
        owner.release()


def _clear_abandoned(staging: Path) -> None:
    """Delete what publishers that died left; a living one holds its lock."""
    for path in staging.glob("*.lock"):
        lock = FileLock(path)
        if lock.try_acquire():
            shutil.rmtree(staging / path.stem, ignore_errors=True)
            path.unlink(missing_ok=True)
            lock.release()


def _fill(target: Path, folder: Path, manifest: Manifest) -> None:
    for entry in manifest.files:
        path = target / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        copy_durably(folder / entry.path, path)
    write_atomically(target / MANIFEST_NAME, _as_json(manifest))


def _rename(source: Path, target: Path) -> None:
    """Rename a folder; one that is already published at ``target`` stays, an unfinished one gives way."""
    if target.exists() and not (target / MANIFEST_NAME).exists():
        shutil.rmtree(target)
    try:
        os.rename(source, target)  # noqa: PTH104 - Path.rename documents less about folders
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise


def _as_json(manifest: Manifest) -> bytes:
    return (manifest.model_dump_json(indent=2) + "\n").encode()
