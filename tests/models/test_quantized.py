"""Int8 layers: near the float layer, and the same bits for a row whatever is beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from fastserve_ray.models.layers import linear_layers, replace_layer, weight_by_output
from fastserve_ray.models.quantized import INT8_LAYERS, ROWS_AT_ONCE, Int8DynamicLinear, Int8Linear

SCHEMES = sorted(INT8_LAYERS)
MAX_ERROR = {"int8-dynamic": 0.013, "int8-weight-only": 0.01}
"""Of normal numbers, relative: a weight is off by a step/sqrt(12), and so is an activation with int8-dynamic."""


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_layer(scheme: str, width: int = 64, outputs: int = 48, *, has_bias: bool = True) -> Int8Linear:
    bias = numbers(outputs, seed=2) if has_bias else None
    return INT8_LAYERS[scheme].from_float(numbers(outputs, width, seed=1), bias)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("width", "outputs"), [(384, 1536), (65, 33)])
def test_near_the_float_layer(scheme: str, has_bias: bool, width: int, outputs: int) -> None:
    layer, inputs = make_layer(scheme, width, outputs, has_bias=has_bias), numbers(4, 7, width)
    expected = functional.linear(inputs, numbers(outputs, width, seed=1), layer.bias)
    got = layer(inputs)
    assert got.shape == (4, 7, outputs)
    error = float((got - expected).norm() / expected.norm())
    assert 1e-4 < error < MAX_ERROR[scheme]  # and int8 it is


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("width", "outputs"), [(64, 48), (80, 33), (128, 7)])
def test_a_row_does_not_depend_on_its_neighbours(scheme: str, has_bias: bool, width: int, outputs: int) -> None:
    layer = make_layer(scheme, width, outputs, has_bias=has_bias)
    rows = numbers(ROWS_AT_ONCE + 45, width)
    rows[3] *= 1000  # one request with outliers
    together = layer(rows)
    for index in (0, 3, 4, 17, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, len(rows) - 1):
        assert torch.equal(layer(rows[index : index + 1])[0], together[index])
    assert torch.equal(layer(rows[5:42]), together[5:42])
    assert torch.equal(layer(rows.flip(0)).flip(0), together)


def test_dynamic_rows_are_independent_at_any_width() -> None:
    layer, rows = make_layer("int8-dynamic", 65, 33), numbers(40, 65)
    assert torch.equal(torch.cat([layer(row[None]) for row in rows]), layer(rows))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_keeps_the_type_of_its_input(scheme: str) -> None:
    layer, inputs = make_layer(scheme), numbers(300, 64)
    assert layer(inputs.bfloat16()).dtype == torch.bfloat16
    error = (layer(inputs.bfloat16()).float() - layer(inputs)).norm() / layer(inputs).norm()
    assert float(error) < 0.02


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_rows_give_no_rows(scheme: str) -> None:
    assert make_layer(scheme)(torch.zeros(0, 64)).shape == (0, 48)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_row_stays_visibly_broken_and_breaks_no_other(scheme: str, bad: float) -> None:
    layer, rows = make_layer(scheme), numbers(3, 64)
    clean = layer(rows)
    rows[1, 5] = bad
    outputs = layer(rows)
    assert not bool(torch.isfinite(outputs[1]).any())
    assert torch.equal(outputs[[0, 2]], clean[[0, 2]])


def test_channels_have_scales_of_their_own() -> None:
    weight = numbers(8, 32)
    weight[2] *= 1e4
    weight[5] = 0.0
    layer = Int8DynamicLinear.from_float(weight, None)
    restored = layer.weight * layer.scale[:, None]
    assert bool(((restored - weight).abs() <= layer.scale[:, None] / 2 * 1.001).all())
    assert bool((layer.weight[5] == 0).all())
    assert bool((layer(numbers(3, 32))[:, 5] == 0).all())


def test_a_conv1d_is_quantized_by_its_outputs() -> None:
    conv = Conv1D(24, 16)
    conv.weight.data = numbers(16, 24)
    conv.bias.data = numbers(24, seed=3)
    layer = Int8DynamicLinear.from_float(weight_by_output(conv), conv.bias)
    assert layer.weight.shape == (24, 16)
    assert layer.weight.is_contiguous()
    inputs = numbers(2, 5, 16, seed=4)
    expected = conv(inputs).detach()
    assert float((layer(inputs) - expected).norm() / expected.norm()) < 0.02


class Toy(torch.nn.Module):
    """Two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.ModuleDict({"up": torch.nn.Linear(4, 8)}) for _ in range(2)])
        self.classifier = torch.nn.Linear(8, 2)


def test_heads_and_excluded_layers_stay_out() -> None:
    toy = Toy()
    assert [name for name, _ in linear_layers(toy)] == ["blocks.0.up", "blocks.1.up"]
    assert [name for name, _ in linear_layers(toy, ["blocks.0.*"])] == ["blocks.1.up"]


def test_a_layer_is_replaced_in_its_parent() -> None:
    toy: Any = Toy()
    new = torch.nn.Identity()
    replace_layer(toy, "blocks.1.up", new)
    replace_layer(toy, "classifier", new)
    assert toy.blocks[1]["up"] is new
    assert toy.classifier is new
