"""Stage ``verify``: the model is held against its trained parent, through the engine that will serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.run.context import Runtime, StageContext


def run_stage(context: StageContext, runtime: Runtime) -> Manifest:
    """Publishes a report; a model that fails raises, and its report lies in the run's folder."""
    return runtime.call(f"{__name__}:work", context)


def work(context: StageContext) -> Manifest:
    """In the worker process."""
    from fastserve_ray.spec.serve import EngineSpec
    from fastserve_ray.verify.verify import require_passed, verify_model

    spec, model, parent = context.spec, context.model_input, _trained_parent(context)
    report = f"runs/{context.run_id}/verification"
    with context.work_folder() as folder:
        result = verify_model(
            context.folder_of(model.stage),
            None if parent is None else context.folder_of(parent.stage),
            spec.verify,
            task=spec.model.task,
            dataset=context.folder_of("data"),
            parent_metrics=None if parent is None else parent.metrics,
            engine_spec=EngineSpec() if spec.serve is None else spec.serve.engine,
            num_shards=1 if spec.serve is None else spec.serve.shards.tensor,
            out=folder,
            progress=context.progress,
        )
        if not result.is_passed:
            context.storage.upload(folder, report)
        require_passed(result, context.storage.where(report))
        info = {"model": model.id, "parent": None if parent is None else parent.id}
        return context.publish(folder, kind="report", metrics=result.figures(), info=info)


def _trained_parent(context: StageContext) -> Manifest | None:
    """The other model among the inputs; None when what is served is the trained model itself."""
    models = [context.inputs[name] for name in context.stage.inputs if context.inputs[name].kind == "model"]
    return models[1] if len(models) > 1 else None
