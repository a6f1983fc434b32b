"""``model.base`` as something that every library below can open: a folder or a hub id."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

from fastserve_ray.plan.inputs import list_input, reference_kind
from fastserve_ray.spec.load import with_overrides
from fastserve_ray.storage.cache import cache_root
from fastserve_ray.storage.causes import storage_errors
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.storage.lock import FileLock

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.run.context import StageContext
    from fastserve_ray.spec.run import RunSpec


def spec_with_local_base(context: StageContext) -> RunSpec:
    """The context's spec, with ``model.base`` replaced by a local folder when it is an artifact or a URI.

    The folder is on this machine: workers on other nodes see it only where they share the file system.
    """
    base = context.spec.model.base
    kind = None if base is None else reference_kind(base)
    if base is not None and kind == "artifact":
        folder = context.registry.fetch(context.registry.resolve(base).id)
    elif base is not None and kind == "uri":
        folder = local_copy(base)
    else:
        return context.spec
    return with_overrides(context.spec, {"model.base": str(folder)})


def local_copy(uri: str) -> Path:
    """The folder at a URI, downloaded once for each state of its files; a local one in place."""
    source = Storage.open(uri)
    local = source.local_path()
    if local is not None:
        return local
    key = hashlib.sha256(repr(list_input(uri)).encode()).hexdigest()[:16]
    folder = cache_root() / "models" / key
    with storage_errors("write", str(folder)), FileLock(folder.with_name(f".{key}.lock")):
        if not folder.exists():
            half = folder.with_name(f".{key}.half")
            shutil.rmtree(half, ignore_errors=True)
            source.download("", half)
            half.rename(folder)
    return folder
