"""The strategies by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.lazy import LazyTable

if TYPE_CHECKING:
    from fastserve_ray.spec import ParallelSpec
    from fastserve_ray.training.strategies.protocol import Strategy

STRATEGIES = LazyTable(
    "strategy",
    "train.parallel",
    {
        "single": "fastserve_ray.training.strategies.single:SingleStrategy",
        "ddp": "fastserve_ray.training.strategies.ddp:DdpStrategy",
        "pipeline": "fastserve_ray.training.strategies.pipeline:PipelineStrategy",
        "zero": "fastserve_ray.training.strategies.zero:ZeroStrategy",
    },
)


def strategy_name(parallel: ParallelSpec) -> str:
    """Pipeline when asked for, else ZeRO, else DDP, else plain PyTorch. All but the first cut layers too."""
    if parallel.pipeline > 1:
        return "pipeline"
    if parallel.zero:
        return "zero"
    return "ddp" if parallel.workers > 1 else "single"


def strategy_label(parallel: ParallelSpec) -> str:
    """All that spreads the model, for people: ``tensor-2+zero-1``."""
    name = strategy_name(parallel)
    parts = [
        f"pipeline-{parallel.pipeline}" if parallel.pipeline > 1 else "",
        f"tensor-{parallel.tensor}" if parallel.tensor > 1 else "",
        f"zero-{parallel.zero}" if parallel.zero else "",
        f"offload-{parallel.offload}" if parallel.offload != "none" else "",
    ]
    return "+".join(part for part in parts if part) or name


def make_strategy(parallel: ParallelSpec) -> Strategy:
    """The strategy that the spec asks for."""
    strategy: Strategy = STRATEGIES.load(strategy_name(parallel))()
    return strategy
