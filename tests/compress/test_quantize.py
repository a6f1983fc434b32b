"""Quantization of whole models: which layers, how near, and which requests share a step does not matter."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from fastserve_ray.compress.quantize import quantize_model
from fastserve_ray.errors import CompressionError
from fastserve_ray.models.quantized import INT8_LAYERS, Int8Linear
from fastserve_ray.spec import QuantizeStep
from tests.compress.test_prune import build
from tests.training.tiny import CONFIGS

SCHEMES: list[Any] = sorted(INT8_LAYERS)
TOKENS = torch.arange(3, 35).view(4, 8)


def step(**changes: Any) -> QuantizeStep:
    return QuantizeStep(kind="quantize", **changes)


def logits(model: Any, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model.eval()(input_ids=tokens).logits
    return result


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_near_the_float_model(family: str, scheme: Any) -> None:
    model = build(family)
    expected = logits(model)
    names = quantize_model(model, step(scheme=scheme))
    assert names == tuple(name for name, module in model.named_modules() if isinstance(module, Int8Linear))
    assert {type(model.get_submodule(name)) for name in names} == {INT8_LAYERS[scheme]}
    error = float((logits(model) - expected).norm() / expected.norm())
    assert 0 < error < 0.03


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_a_tied_head_stays_tied_and_float(family: str) -> None:
    model = build(family)
    head = model.get_output_embeddings()
    weight = None if head is None else head.weight
    quantize_model(model, step())
    assert model.get_output_embeddings() is head
    assert head is None or head.weight is weight
    assert not any(isinstance(module, Int8Linear) for _, module in model.named_children())
    assert (family in {"gpt2", "gemma"}) == (head is not None and head.weight is model.get_input_embeddings().weight)


def test_excluded_layers_stay_float() -> None:
    model = build()
    names = quantize_model(model, step(exclude=["*.down_proj"]))
    assert names
    assert not any("down_proj" in name for name in names)
    assert isinstance(model.model.layers[0].mlp.down_proj, torch.nn.Linear)


def test_twice_is_refused() -> None:
    model = build()
    quantize_model(model, step())
    with pytest.raises(CompressionError, match="quantized already"):
        quantize_model(model, step())


def test_nothing_to_quantize_is_refused() -> None:
    with pytest.raises(CompressionError, match="no linear layer"):
        quantize_model(torch.nn.Sequential(torch.nn.ReLU()), step())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_float_model_can_be_kept_by_a_copy(scheme: Any) -> None:
    model = build("bert")
    before = logits(model)
    quantize_model(copy.deepcopy(model), step(scheme=scheme))
    assert torch.equal(logits(model), before)
