"""FastServe-Ray: one YAML file takes a language model from data to a fast, verified, autoscaled endpoint.

The names below are the Python interface; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastserve_ray.sdk.compression import Pruning, Quantization, compress_model
    from fastserve_ray.sdk.fastserve import FastServe
    from fastserve_ray.sdk.inference import create_engine
    from fastserve_ray.sdk.models import load_model, parallelize_model
    from fastserve_ray.sdk.optimizer import DeploymentOptimizer
    from fastserve_ray.sdk.trainer import ParallelTrainer

__version__ = "0.1.0"

__all__ = [
    "DeploymentOptimizer",
    "FastServe",
    "ParallelTrainer",
    "Pruning",
    "Quantization",
    "compress_model",
    "create_engine",
    "load_model",
    "parallelize_model",
]

_HOMES = {
    "DeploymentOptimizer": "optimizer",
    "FastServe": "fastserve",
    "ParallelTrainer": "trainer",
    "Pruning": "compression",
    "Quantization": "compression",
    "compress_model": "compression",
    "create_engine": "inference",
    "load_model": "models",
    "parallelize_model": "models",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastserve_ray.sdk.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
