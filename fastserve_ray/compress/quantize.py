"""Post-training int8 quantization: each linear layer's weight in int8 with a scale for every output channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.errors import CompressionError
from fastserve_ray.models.layers import linear_layers, replace_layer, weight_by_output
from fastserve_ray.models.quantized import INT8_LAYERS, Int8Linear

if TYPE_CHECKING:
    from torch import nn

    from fastserve_ray.spec import QuantizeStep


def quantize_model(model: nn.Module, step: QuantizeStep) -> tuple[str, ...]:
    """Replace the linear layers in place; the names of those replaced.

    Raises:
        CompressionError: the model is quantized already, or has no linear layer.
    """
    if any(isinstance(module, Int8Linear) for module in model.modules()):
        raise CompressionError("the model is quantized already", allowed="one quantize step", key="compress")
    layers = list(linear_layers(model, step.exclude))
    if not layers:
        raise CompressionError("the model has no linear layer to quantize", value=type(model).__name__)
    kind = INT8_LAYERS[step.scheme]
    for name, layer in layers:
        bias = getattr(layer, "bias", None)
        replace_layer(model, name, kind.from_float(weight_by_output(layer), bias))
    return tuple(name for name, _ in layers)
