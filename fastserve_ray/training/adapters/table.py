"""The adapters by kind, and which one a module has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.lazy import LazyTable

if TYPE_CHECKING:
    import torch

    from fastserve_ray.spec import AdapterSpec
    from fastserve_ray.training.adapters.protocol import Adapter, Occasion

ADAPTERS = LazyTable(
    "adapter",
    "train.adapter.kind",
    {
        "lora": "fastserve_ray.training.adapters.tuners:LoraTuner",
        "adalora": "fastserve_ray.training.adapters.adalora:AdaLoraTuner",
        "ia3": "fastserve_ray.training.adapters.tuners:Ia3Tuner",
        "prompt": "fastserve_ray.training.adapters.prompts:LearnedPrompt",
        "prefix": "fastserve_ray.training.adapters.prompts:LearnedPrompt",
    },
)
_ATTRIBUTE = "fastserve_adapter"


def attach(model: torch.nn.Module, spec: AdapterSpec, occasion: Occasion) -> torch.nn.Module:
    """The module to train; ``adapter_of`` knows its adapter.

    Raises:
        ModelError: the adapter does not fit the model.
    """
    adapter: Adapter = ADAPTERS.load(spec.kind)(spec, occasion)
    module = adapter.attach(model)
    vars(module)[_ATTRIBUTE] = adapter  # past torch, which would take an adapter's modules for parts of this one
    return module


def adapter_of(module: torch.nn.Module) -> Adapter | None:
    """The adapter that ``attach`` gave to this very module."""
    found: Adapter | None = vars(module).get(_ATTRIBUTE)
    return found
