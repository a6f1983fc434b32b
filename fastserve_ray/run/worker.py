"""The process in which the stages' own work runs: data, import, compress, verify.

One for the whole run, so that torch and transformers are imported once (5 to 10 seconds on a small machine), and
apart from the driver, which imports neither.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from fastserve_ray.events.log import EventWriter
from fastserve_ray.events.progress import EventProgress
from fastserve_ray.lazy import resolve

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.run.context import StageContext

SOURCE = "worker"
"""Of the events."""


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
        function = resolve(work, what="stage", key="")
        with EventWriter(context.storage.uri, context.run_id, SOURCE) as events:
            progress = EventProgress(events, context.stage.name)
            manifest: Manifest = function(dataclasses.replace(context, events=events, progress=progress))
            return manifest
