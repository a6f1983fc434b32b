"""Which engines there are, and the one call that opens one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.errors import EngineError
from fastserve_ray.lazy import LazyTable
from fastserve_ray.spec.serve import EngineSpec

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.engines.protocol import AnyEngine
    from fastserve_ray.spec.model import TaskName

ENGINES = LazyTable("engine", "serve.engine.kind", {"torch": "fastserve_ray.engines.torch.factory:open_torch_engine"})


def open_engine(folder: str | Path, task: TaskName, spec: EngineSpec | None = None) -> AnyEngine:
    """Load a model folder (or hub id) into the engine that ``spec.kind`` names.

    Returns a ``GenerateEngine`` for text generation, a ``BatchEngine`` for classification, and an ``EmbeddingEngine``
    for embeddings.

    Raises:
        UnknownNameError: no such engine.
        ModelError: the model cannot be loaded.
        EngineError: the engine cannot run this model; the message says why.
    """
    check_model(folder, task)
    spec = spec if spec is not None else EngineSpec()
    engine: AnyEngine = ENGINES.load(spec.kind)(folder, task, spec)
    return engine


def check_model(folder: str | Path, task: TaskName) -> None:
    """Refuse what no engine runs.

    Raises:
        EngineError: with the reason.
    """
    from fastserve_ray.models.loading import has_adapter

    if task == "masked-lm":
        raise EngineError(
            "a masked language model is made to be fine-tuned; no engine runs it",
            value=str(folder),
            allowed="text-generation, text-classification, text-embedding",
            key="model.task",
            hint="fine-tune it: model.base: run@train with task: text-classification",
        )
    if has_adapter(folder):
        raise EngineError(
            "this model needs its learned prompt, which no engine runs",
            value=str(folder),
            allowed="a model trained with adapter.kind lora, adalora or ia3, or without an adapter",
            key="train.adapter.kind",
        )
