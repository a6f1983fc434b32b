"""``load_model`` and ``parallelize_model``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from fastserve_ray.models.loading import LoadedModel
    from fastserve_ray.spec.model import TaskName

Model = TypeVar("Model")


def load_model(reference: str | Path, *, task: TaskName | None = None, storage: str = "./runs") -> LoadedModel:
    """Load a model with its tokenizer, on the CPU, in evaluation mode.

    Args:
        reference: a hub id ("gpt2"), a folder, or an artifact (``artifact:ID``, or ``run@stage``) of ``storage``.
        task: "text-generation", "text-classification" or "text-embedding"; default: what the model's config says.

    Raises:
        ModelError: not found, not readable, or not made for the task.
        ArtifactError: no such artifact.
    """
    from fastserve_ray.models.loading import load_pretrained

    place = _place(str(reference), storage)
    return load_pretrained(place, task or _task_of(place))


def parallelize_model(model: Model, method: str = "data_parallel", num_gpus: int = 1) -> Model:
    """Spread a model's forward pass over GPUs: each takes a part of the batch.

    With fewer GPUs than asked for it uses what there is, says so on stderr, and returns a model that computes the same.
    To train over many machines use ``ParallelTrainer`` or ``train.parallel`` in the YAML.

    Args:
        model: what ``load_model`` returned, or a torch module; changed in place.
        method: only "data_parallel".
        num_gpus: at least 1.

    Raises:
        UsageError: an unknown method or number.
    """
    import torch

    from fastserve_ray.sdk.handles import module_of

    if method != "data_parallel":
        raise UsageError("unknown method", value=method, allowed="data_parallel", key="method")
    if num_gpus < 1:
        raise UsageError("at least one GPU is needed", value=num_gpus, allowed="1 or more", key="num_gpus")
    present = torch.cuda.device_count()
    used = min(num_gpus, present)
    if used < num_gpus:
        what = f"{used} of them" if used else f"the CPU with {torch.get_num_threads()} threads"
        print(f"parallelize_model: {num_gpus} GPUs asked for, {present} present; using {what}", file=sys.stderr)
    if not used:
        return model
    module = module_of(model).to("cuda:0")
    spread: Any = torch.nn.DataParallel(module, device_ids=list(range(used))) if used > 1 else module
    if module is model:
        return spread  # type: ignore[no-any-return]
    model.model = spread  # type: ignore[attr-defined]
    return model


def _place(reference: str, storage: str) -> str | Path:
    """A folder or a hub id."""
    if Path(reference).expanduser().is_dir():
        return Path(reference).expanduser()
    if not (reference.startswith("artifact:") or "@" in reference):
        return reference
    from fastserve_ray.artifacts.registry import Registry
    from fastserve_ray.storage.filesystem import Storage

    registry = Registry(Storage.open(storage))
    return registry.fetch(registry.resolve(reference).id)


def _task_of(place: str | Path) -> TaskName:
    """By the class that the config names; a causal language model when it names none."""
    from transformers import AutoConfig

    from fastserve_ray.models.loading import read_config
    from fastserve_ray.models.pooling import MODULES_FILE

    if isinstance(place, Path):
        if (place / MODULES_FILE).is_file():
            return "text-embedding"
        architectures = read_config(place).get("architectures")
    else:
        try:
            architectures = AutoConfig.from_pretrained(place).architectures
        except (OSError, ValueError):
            return "text-generation"  # the error that loading meets says more
    is_classifier = any("SequenceClassification" in name for name in architectures or ())
    return "text-classification" if is_classifier else "text-generation"
