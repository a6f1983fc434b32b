"""The process in which the stages' own work runs: data, import, compress, verify.

One for the whole run, so that torch and transformers are imported once (5 to 10 seconds on a small machine), and
apart from the driver, which imports neither.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastserve_ray.lazy import resolve

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.run.context import StageContext


class StageWorker:
    """Made into an actor by the runtime.

    Args:
        num_threads: of torch and of the tokenizers, which read it when they are loaded.
        folder: the driver's working directory, which relative paths of the spec start from.
    """

    def __init__(self, num_threads: int, folder: str) -> None:
        os.chdir(folder)
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
        os.environ["RAYON_NUM_THREADS"] = str(num_threads)

    def run(self, work: str, context: StageContext) -> Manifest:
        """Call ``"module:function"`` with the context; its events are in storage when this returns."""
        try:
            function = resolve(work, what="stage", key="")
            manifest: Manifest = function(context)
            return manifest
        finally:
            context.events.close()
