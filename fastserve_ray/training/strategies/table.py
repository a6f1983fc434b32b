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
    """Pipeline before tensor before ZeRO, each with what is asked for besides; else DDP, else plain PyTorch."""
    if parallel.pipeline > 1:
        return "pipeline"
    if parallel.tensor > 1:
        return "tensor"
    if parallel.zero:
        return "zero"
    return "ddp" if parallel.workers > 1 else "single"


def make_strategy(parallel: ParallelSpec) -> Strategy:
    """The strategy that the spec asks for."""
    strategy: Strategy = STRATEGIES.load(strategy_name(parallel))()
    return strategy
