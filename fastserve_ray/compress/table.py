"""The compression steps by kind. Each changes a model in place and returns what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.lazy import LazyTable

if TYPE_CHECKING:
    from torch import nn

    from fastserve_ray.spec import CompressStep

STEPS = LazyTable(
    "compression step",
    "compress.kind",
    {
        "prune": "fastserve_ray.compress.prune:prune_model",
        "quantize": "fastserve_ray.compress.quantize:quantize_model",
    },
)


def apply_step(model: nn.Module, step: CompressStep) -> None:
    """Apply one step of the spec in place.

    Raises:
        CompressionError: the step does not fit the model.
    """
    STEPS.load(step.kind)(model, step)
