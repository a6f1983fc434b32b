"""Stage ``import``: a model that is trained already becomes an artifact, so that what follows reads only artifacts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import JsonValue

    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.run.context import Runtime, StageContext
    from fastserve_ray.spec.run import RunSpec


def run_stage(context: StageContext, runtime: Runtime) -> Manifest:
    """Publishes ``model.base`` as it is."""
    return runtime.call(f"{__name__}:work", context)


def work(context: StageContext) -> Manifest:
    """In the worker process. Loading the model proves that it is one, before anything rests on it."""
    from fastserve_ray.models.loading import load_pretrained, save_model
    from fastserve_ray.run.stages.base_model import spec_with_local_base

    spec = spec_with_local_base(context)
    base = str(spec.model.base)
    context.progress(step=0, total=None, message=f"loading {base}")
    loaded = load_pretrained(
        base,
        spec.model.task,
        revision=spec.model.revision,
        num_labels=spec.model.num_labels,
        trust_remote_code=spec.model.trust_remote_code,
    )
    with context.work_folder() as folder:
        if Path(base).expanduser().is_dir():
            hidden = shutil.ignore_patterns(".*")
            shutil.copytree(Path(base).expanduser(), folder, dirs_exist_ok=True, ignore=hidden)
        else:
            save_model(loaded.model, loaded.tokenizer, folder)
            if loaded.pooling is not None:
                loaded.pooling.save(folder, loaded.model.config.hidden_size)
        return context.publish(folder, kind="model", metrics={}, info=_info(spec, loaded.model))


def _info(spec: RunSpec, model: Any) -> dict[str, JsonValue]:
    config = model.config
    labels = config.id2label if spec.model.task == "text-classification" else None
    return {
        "task": spec.model.task,
        "model_type": config.model_type,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "label_names": None if labels is None else [labels[index] for index in sorted(labels)],
    }
