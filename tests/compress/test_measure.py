"""Sizes, counts and latencies."""

from __future__ import annotations

import time
from typing import Any

import torch

from fastserve_ray.compress.measure import count_weights, interleaved_latencies, tensor_bytes, zeros_by_layer
from fastserve_ray.compress.prune import prune_model
from fastserve_ray.compress.quantize import quantize_model
from fastserve_ray.models.layers import linear_layers
from fastserve_ray.spec import PruneStep, QuantizeStep
from tests.compress.test_prune import build


def test_shared_weights_count_once() -> None:
    model = build("gpt2")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert count_weights(model) == (parameters, sum(int((p != 0).sum()) for p in model.parameters()))
    assert tensor_bytes(model) == 4 * parameters


def test_int8_weights_take_a_byte_and_a_scale_a_channel() -> None:
    model = build("llama")
    shapes = [layer.get_parameter("weight").shape for _, layer in linear_layers(model)]
    whole, num_weights = tensor_bytes(model), count_weights(model)[0]
    quantize_model(model, QuantizeStep(kind="quantize"))
    assert whole - tensor_bytes(model) == sum(3 * outputs * inputs - 4 * outputs for outputs, inputs in shapes)
    assert count_weights(model)[0] == num_weights


def test_zeros_are_found_in_float_and_int8_layers() -> None:
    model = build("llama")
    prune_model(model, PruneStep(kind="prune", sparsity=0.5))
    before = zeros_by_layer(model)
    assert set(before.values()) == {0.5}
    quantize_model(model, QuantizeStep(kind="quantize"))
    after = zeros_by_layer(model)
    assert after.keys() == before.keys()
    assert all(0.5 <= part < 0.6 for part in after.values())  # some small weights round to zero


def test_latencies_are_taken_in_turn() -> None:
    calls: list[str] = []

    class Slow(torch.nn.Module):
        def __init__(self, name: str, seconds: float) -> None:
            super().__init__()
            self.name, self.seconds = name, seconds

        def forward(self, **inputs: Any) -> None:
            assert set(inputs) == {"input_ids"}
            calls.append(self.name)
            time.sleep(self.seconds)

    models = {"a": Slow("a", 0.002), "b": Slow("b", 0.02)}
    batch = {"input_ids": torch.ones(1, 2), "labels": torch.ones(1)}
    latencies = interleaved_latencies(models, batch, rounds=3)
    assert calls == ["a", "b"] * 5
    assert latencies["a"] >= 2
    assert latencies["b"] >= 20
