"""Stage ``verify``: a model that fails is not served."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.run.context import Runtime, StageContext


def run_stage(context: StageContext, runtime: Runtime) -> Manifest:
    """Publishes a report of a model that passed."""
    return runtime.call(f"{__name__}:work", context)


def work(context: StageContext) -> Manifest:
    """In the worker process. The report of a model that failed goes to the run's own folder."""
    from fastserve_ray.spec.serve import EngineSpec
    from fastserve_ray.verify.verify import require_passed, verify_model

    spec = context.spec
    model, parent = context.model_input, _trained_parent(context)
    with context.work_folder() as folder:
        result = verify_model(
            context.registry.fetch(model.id),
            None if parent is None else context.registry.fetch(parent.id),
            spec.verify,
            task=spec.model.task,
            dataset=context.folder_of("data"),
            parent_metrics=None if parent is None else parent.metrics,
            engine_spec=spec.serve.engine if spec.serve is not None else EngineSpec(),
            out=folder,
            progress=context.progress,
        )
        if not result.is_passed:
            place = f"runs/{context.run_id}/verification"
            context.storage.upload(folder, place)
            require_passed(result, context.storage.where(place))
        return context.publish(folder, kind="report", metrics=result.figures(), info={"model": model.id})


def _trained_parent(context: StageContext) -> Manifest | None:
    """The model that compression started from; None when nothing was compressed."""
    for name in ("train", "import"):
        if name in context.inputs and context.inputs[name].id != context.model_input.id:
            return context.inputs[name]
    return None
