"""Stage ``compress``: the model made smaller, step by step, with a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.run.context import Runtime, StageContext


def run_stage(context: StageContext, runtime: Runtime) -> Manifest:
    """Publishes a model, with the report among its files."""
    return runtime.call(f"{__name__}:work", context)


def work(context: StageContext) -> Manifest:
    """In the worker process."""
    from fastserve_ray.compress.apply import compress_model_folder
    from fastserve_ray.data.dataset import PreparedDataset

    dataset = PreparedDataset.open(context.folder_of("data"))
    parent = context.model_input
    with context.work_folder() as folder:
        report = compress_model_folder(
            context.folder_of(parent.stage),
            context.spec.compress,
            task=context.spec.model.task,
            rows=dataset.validation,
            pad_token_id=dataset.info.pad_token_id,
            out=folder,
            progress=context.progress,
        )
        steps: list[JsonValue] = [step.model_dump(mode="json") for step in context.spec.compress]
        info: dict[str, JsonValue] = {**parent.info, "compression": steps}
        return context.publish(folder, kind="model", metrics=report.figures(), info=info)
