"""Rules about ``serve.shards``: what a replica may be spread over, and which models can be cut that way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.checks.parallel import uneven_heads
from fastserve_ray.spec.problems import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.serve import EngineSpec, ServeSpec

SERVED_FAMILIES = ("gemma", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "qwen2", "qwen3")
"""Model types whose layers the torch engine can cut into shards."""
WHOLE = ("text-classification", "text-embedding")
"""Tasks whose engine has no shards."""
TENSOR = ("serve", "shards", "tensor")
_PIPELINE = ("serve", "shards", "pipeline")
_ENGINE = ("serve", "engine")


def check_shards(spec: RunSpec) -> Iterator[Finding]:
    """One way to cut, a task and an engine that have it, and a model whose heads can be shared out."""
    if spec.serve is None:
        return
    yield from uncut_replica(spec.serve, spec.model.task)
    if spec.serve.shards.tensor > 1 and spec.model.config is not None:
        yield from uncut_model(spec.model.config, spec.serve.shards.tensor)


def uncut_replica(serve: ServeSpec, task: str) -> Iterator[Finding]:
    """What no model could be served with."""
    shards = serve.shards
    if shards.pipeline > 1:
        yield Finding(
            _PIPELINE,
            "a served model is not cut between its layers",
            str(shards.pipeline),
            "1; serve.shards.tensor spreads a replica",
        )
    if shards.tensor == 1:
        return
    if task in WHOLE:
        allowed = "1, or task: text-generation"
        yield Finding(TENSOR, f"a {task} model is served whole", str(shards.tensor), allowed, uses=(("model", "task"),))
    yield from _engine(serve.engine)


def uncut_model(config: dict[str, JsonValue], tensor: int) -> Iterator[Finding]:
    """Why a model with this transformers configuration cannot be served over ``tensor`` shards, if so."""
    kind = config.get("model_type")
    if isinstance(kind, str) and kind not in SERVED_FAMILIES:
        yield Finding(
            TENSOR,
            f"models of type {kind} have no plan for it",
            str(tensor),
            f"1, or a model of type {', '.join(SERVED_FAMILIES)}",
            uses=(("model", "config", "model_type"),),
        )
    yield from uneven_heads(config, tensor, TENSOR)


def _engine(engine: EngineSpec) -> Iterator[Finding]:
    if engine.attention == "flex":
        at = (*_ENGINE, "attention")
        yield Finding(at, "shards gather, and have no flex attention", "flex", "auto, gather", uses=(TENSOR,))
    if engine.int8_output_layer:
        at = (*_ENGINE, "int8_output_layer")
        yield Finding(at, "shards hold the output layer as it is stored", "true", "false", uses=(TENSOR,))
