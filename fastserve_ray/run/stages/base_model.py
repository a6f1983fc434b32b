"""``model.base`` as something that every library below can open: a folder or a hub id."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.plan.inputs import reference_kind
from fastserve_ray.spec.load import with_overrides
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from fastserve_ray.run.context import StageContext
    from fastserve_ray.spec.run import RunSpec


def spec_with_local_base(context: StageContext) -> RunSpec:
    """The context's spec, with ``model.base`` replaced by a local folder when it is an artifact or a URI.

    The folder is on this machine: workers on other nodes see it only where they share the file system.
    """
    base = context.spec.model.base
    kind = None if base is None else reference_kind(base)
    if base is None or kind in {None, "hub", "folder"}:
        return context.spec
    if kind == "artifact":
        folder = context.registry.fetch(context.registry.resolve(base).id)
    else:
        folder = Path(tempfile.mkdtemp(prefix="fastserve-base-"))
        Storage.open(base).download("", folder)
    return with_overrides(context.spec, {"model.base": str(folder)})
