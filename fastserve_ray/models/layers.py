"""The weight matrices of a transformers model that compression may touch."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING

import torch
from torch import nn

from fastserve_ray.errors import CompressionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def is_linear(module: nn.Module) -> bool:
    """nn.Linear, or GPT-2's Conv1D, which is a linear layer that stores its weight transposed."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def weight_by_output(module: nn.Module) -> torch.Tensor:
    """The weight as (out_features, in_features), whichever way it is stored."""
    weight = module.get_parameter("weight")
    return weight if isinstance(module, nn.Linear) else weight.t()


def linear_layers(model: nn.Module, exclude: Sequence[str] = ()) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every linear layer inside the model's blocks.

    Heads stay out: the output embedding, and layers that hang on the model itself (``lm_head``, ``classifier``). They
    are small or tied to the input embedding, and the first to cost quality.

    Args:
        exclude: further names to leave out, as fnmatch patterns.

    Raises:
        CompressionError: a pattern fits no layer.
    """
    named = [(name, module) for name, module in model.named_modules() if is_linear(module)]
    for pattern in exclude:
        if not any(fnmatch(name, pattern) for name, _ in named):
            raise CompressionError(
                "this pattern fits no linear layer",
                value=pattern,
                allowed="a pattern for names such as " + ", ".join(name for name, _ in named[:3]),
                key="compress",
            )
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    has_blocks = any("." in name for name, _ in named)
    for name, module in named:
        is_head = module is head or (has_blocks and "." not in name)
        if not is_head and not any(fnmatch(name, pattern) for pattern in exclude):
            yield name, module


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put ``layer`` where the module ``name`` was."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
