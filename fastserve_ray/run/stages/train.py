"""Stage ``train``: Ray Train workers train the model and publish it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.run.context import Runtime, StageContext


def run_stage(context: StageContext, runtime: Runtime) -> Manifest:
    """Publishes a model; goes on from the last checkpoint of an earlier try, also of one that was spread otherwise."""
    context.progress(step=0, total=None, message="starting Ray")
    runtime.start()
    context.progress(step=0, total=None, message="starting the workers")
    from fastserve_ray.run.stages.base_model import spec_with_local_base
    from fastserve_ray.training.launch import train_on_ray

    return train_on_ray(
        spec_with_local_base(context),
        dataset=context.inputs["data"].id,
        digest=context.stage.digest,
        parents=context.parents,
        storage_uri=context.storage.uri,
        run_id=context.run_id,
        fingerprints=context.stage.fingerprints,
    )
