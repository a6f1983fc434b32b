"""Size and latency of a model."""

from __future__ import annotations

import statistics
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import nn

from fastserve_ray.models.layers import linear_layers
from fastserve_ray.models.quantized import Int8Linear

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WARMUP_ROUNDS = 2
ROUNDS = 9


def tensor_bytes(model: nn.Module) -> int:
    """Bytes of weights and stored buffers, shared ones once."""
    sizes = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()}
    return sum(sizes.values())


def count_weights(model: nn.Module) -> tuple[int, int]:
    """All weights, and those that are not zero; scales are not counted."""
    tensors = {parameter.data_ptr(): parameter for parameter in model.parameters()}
    for module in model.modules():
        if isinstance(module, Int8Linear):
            tensors |= {tensor.data_ptr(): tensor for tensor in (module.weight, module.bias) if tensor is not None}
    return sum(t.numel() for t in tensors.values()), sum(int((t != 0).sum()) for t in tensors.values())


def zeros_by_layer(model: nn.Module) -> dict[str, float]:
    """Zeros over all weights of each matrix that compression may touch."""
    layers = dict(linear_layers(model)) | {
        name: module for name, module in model.named_modules() if isinstance(module, Int8Linear)
    }
    weights = {
        name: layer.get_buffer("weight") if isinstance(layer, Int8Linear) else layer.get_parameter("weight")
        for name, layer in layers.items()
    }
    return {name: float((weight == 0).double().mean()) for name, weight in weights.items()}


def interleaved_latencies(
    models: Mapping[str, nn.Module], batch: Mapping[str, torch.Tensor], *, rounds: int = ROUNDS
) -> dict[str, float]:
    """Median milliseconds of a forward pass of each model on ``batch``, run in turn so that a drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.inference_mode():
        for number in range(WARMUP_ROUNDS + rounds):
            for name, model in models.items():
                elapsed = _timed(lambda model=model: model(**inputs))  # type: ignore[misc]
                if number >= WARMUP_ROUNDS:
                    seconds[name].append(elapsed)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def _timed(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def first_rows(rows: Sequence[Mapping[str, object]], count: int) -> list[Mapping[str, object]]:
    """The rows that latency is measured on."""
    return [rows[index] for index in range(min(count, len(rows)))]
