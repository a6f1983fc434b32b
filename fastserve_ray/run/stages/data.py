"""Stage ``data``: rows to token sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.run.context import Runtime, StageContext


def run_stage(context: StageContext, runtime: Runtime) -> Manifest:
    """Publishes a dataset."""
    return runtime.call(f"{__name__}:work", context)


def work(context: StageContext) -> Manifest:
    """In the worker process."""
    from fastserve_ray.data.prepare import prepare_dataset
    from fastserve_ray.run.stages.base_model import spec_with_local_base

    with context.work_folder() as folder:
        info = prepare_dataset(spec_with_local_base(context), folder, context.progress)
        figures = {"num_train": info.num_train, "num_validation": info.num_validation, "num_tokens": info.num_tokens}
        metrics = {name: float(value) for name, value in figures.items()}
        return context.publish(folder, kind="dataset", metrics=metrics, info=info.model_dump(mode="json"))
