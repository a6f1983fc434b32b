"""Rules about ``train.parallel``: which ways to spread a model go together, and with which models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.checks.model import HEADS, KV_HEADS, LAYERS, integer_of
from fastserve_ray.spec.problems import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.train import ParallelSpec, TrainSpec
    from fastserve_ray.spec.yaml_reader import Path

CUT_FAMILIES = ("bert", "gemma", "gpt2", "llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers ``tensor`` can cut and ``pipeline`` can share out."""
_AT = ("train", "parallel")
_MODEL_TYPE = ("model", "config", "model_type")


def check_parallel(spec: RunSpec) -> Iterator[Finding]:
    """Legal products of strategies, and models that can be cut that way."""
    if spec.train is None:
        return
    parallel = spec.train.parallel
    yield from _products(parallel)
    yield from _balance(spec.train)
    yield from _offload(parallel)
    yield from _unused(parallel)
    if spec.model.config is not None:
        yield from _family(parallel, spec.model.config)
        yield from uneven_heads(spec.model.config, parallel.tensor, (*_AT, "tensor"))
        yield from _layers(parallel, spec.model.config)


def _products(parallel: ParallelSpec) -> Iterator[Finding]:
    if parallel.pipeline > 1 and parallel.zero > 1:
        yield Finding(
            (*_AT, "zero"),
            f"stage {parallel.zero} does not go with pipeline: {parallel.pipeline}",
            str(parallel.zero),
            "at most 1 with pipeline, or pipeline: 1",
            uses=((*_AT, "pipeline"),),
        )


def _unused(parallel: ParallelSpec) -> Iterator[Finding]:
    if parallel.pipeline == 1 and parallel.balance_stages != "parameters":
        at = (*_AT, "balance_stages")
        yield Finding(at, "there is one stage", parallel.balance_stages, "with pipeline: 2 or more")


def _balance(train: TrainSpec) -> Iterator[Finding]:
    """What a worker computes is told from what it waits for by a way of its own in every strategy."""
    if train.balance == "even":
        return
    at = ("train", "balance")
    for name in ("tensor", "pipeline"):
        if getattr(train.parallel, name) > 1:
            yield Finding(at, f"does not go with {name}", train.balance, f"even, or {name}: 1", uses=((*_AT, name),))
    if train.parallel.zero and train.resources_per_worker.GPU:
        yield Finding(at, "does not go with zero on GPUs", train.balance, "even, or zero: 0", uses=((*_AT, "zero"),))


def _offload(parallel: ParallelSpec) -> Iterator[Finding]:
    at, uses = (*_AT, "offload"), ((*_AT, "zero"),)
    if parallel.offload != "none" and parallel.zero == 0:
        yield Finding(at, "only what ZeRO splits can be offloaded", parallel.offload, "with zero: 1, 2 or 3", uses=uses)
    for name in ("tensor", "pipeline"):
        if parallel.offload != "none" and getattr(parallel, name) > 1:
            yield Finding(at, f"does not go with {name}", parallel.offload, f"with {name}: 1", uses=((*_AT, name),))
    folder = (*_AT, "offload_folder")
    if parallel.offload == "nvme" and parallel.offload_folder is None:
        yield Finding(folder, "offload: nvme needs it", None, "a folder on a local disk of every node", uses=(at,))
    if parallel.offload != "nvme" and parallel.offload_folder is not None:
        yield Finding(folder, "nothing goes there", parallel.offload_folder, "with offload: nvme", uses=(at,))


def _family(parallel: ParallelSpec, config: dict[str, JsonValue]) -> Iterator[Finding]:
    kind = config.get("model_type")
    for name in ("tensor", "pipeline"):
        if getattr(parallel, name) > 1 and isinstance(kind, str) and kind not in CUT_FAMILIES:
            yield Finding(
                (*_AT, name),
                f"models of type {kind} have no plan for it",
                str(getattr(parallel, name)),
                f"1, or a model of type {', '.join(CUT_FAMILIES)}",
                uses=(_MODEL_TYPE,),
            )


def uneven_heads(config: dict[str, JsonValue], tensor: int, at: Path) -> Iterator[Finding]:
    """Every one of ``tensor`` ranks gets as many heads; those of keys and values are shared out, or held by as many
    ranks each."""
    heads, groups = integer_of(config, HEADS), integer_of(config, KV_HEADS)
    if heads is None:
        return
    num_groups = groups[1] if groups else heads[1]
    ways = [ways for ways in range(1, heads[1] + 1) if heads[1] % ways == 0]
    possible = [count for count in ways if max(count, num_groups) % min(count, num_groups) == 0]
    if tensor not in possible:
        over = f" over {groups[0]} ({groups[1]})" if groups else ""
        yield Finding(
            at,
            f"does not divide {heads[0]} ({heads[1]}){over} evenly",
            str(tensor),
            ", ".join(map(str, possible)),
            uses=tuple(("model", "config", found[0]) for found in (heads, groups) if found),
        )


def _layers(parallel: ParallelSpec, config: dict[str, JsonValue]) -> Iterator[Finding]:
    layers = integer_of(config, LAYERS)
    if layers is not None and parallel.pipeline > layers[1]:
        yield Finding(
            (*_AT, "pipeline"),
            f"more stages than {layers[0]} ({layers[1]})",
            str(parallel.pipeline),
            f"at most {layers[1]}",
            uses=(("model", "config", layers[0]),),
        )
