"""Packed layers against float64 and against the layers that they replace, at every level that this processor has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.torch import fused, linears
from fastserve_ray.engines.torch.linears import (
    PackedInt8Linear,
    PackedLinear,
    PackedMixedLinear,
    SharedEmbedding,
    prepare_linears,
    quantize_output_layer,
)
from fastserve_ray.errors import EngineError
from fastserve_ray.models.quantized import Int8DynamicLinear, Int8Linear, Int8WeightOnlyLinear
from fastserve_ray.native import library
from tests.engines.tiny import build_engine, build_model, generate, greedy, random_prompts

if TYPE_CHECKING:
    import ctypes

pytestmark = pytest.mark.skipif(library.load_library() is None, reason="no kernels here: no x86, or no C++ compiler")

LEVELS = [name for name, flags, _ in library.LEVELS if flags <= library.cpu_flags()]
SHAPES = [(1, 1, 1), (1, 33, 7), (3, 30, 77), (6, 64, 128), (13, 100, 300), (25, 33, 129), (40, 96, 1000)]


@pytest.fixture(params=LEVELS, scope="module")
def kernels(request: pytest.FixtureRequest) -> ctypes.CDLL:
    _, _, flags = next(level for level in library.LEVELS if level[0] == request.param)
    return library._open(library._built(request.param, (*library._FLAGS, *flags)))


def weights(outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(outputs + inputs)
    return torch.randn(outputs, inputs), torch.randn(outputs)


def linear(outputs: int, inputs: int, *, has_bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=has_bias)
    layer.weight.data, bias = weights(outputs, inputs)
    if has_bias:
        layer.bias.data = bias
    return layer.requires_grad_(False)


def int8(kind: type[Int8Linear], outputs: int, inputs: int) -> Any:
    return kind.from_float(*weights(outputs, inputs))


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_float_is_close_to_float64(kernels: ctypes.CDLL, rows: int, outputs: int, inputs: int, has_bias: bool) -> None:
    layer, x = linear(outputs, inputs, has_bias=has_bias), torch.randn(rows, inputs)
    want = layer.double()(x.double())
    got = PackedLinear(layer.float(), kernels)(x)
    assert torch.allclose(got.double(), want, atol=1e-5 * inputs**0.5, rtol=1e-5)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_mixed_is_close_to_float64(kernels: ctypes.CDLL, rows: int, outputs: int, inputs: int) -> None:
    layer, x = int8(Int8WeightOnlyLinear, outputs, inputs), torch.randn(rows, inputs)
    want = x.double() @ (layer.weight.double() * layer.scale.double()[:, None]).T + layer.bias.double()
    got = PackedMixedLinear(layer, kernels)(x)
    assert torch.allclose(got.double(), want, atol=1e-5 * inputs**0.5, rtol=1e-5)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_int8_is_the_layer_itself_to_the_bit(kernels: ctypes.CDLL, rows: int, outputs: int, inputs: int) -> None:
    layer, x = int8(Int8DynamicLinear, outputs, inputs), torch.randn(rows, inputs) * 3
    assert torch.equal(PackedInt8Linear(layer, kernels)(x), layer(x))


@pytest.mark.parametrize("kind", ["float", "mixed", "int8"])
def test_a_row_alone_and_among_others_is_the_same_bits(kernels: ctypes.CDLL, kind: str) -> None:
    outputs, inputs, rows = 70, 333, 45
    layers: dict[str, nn.Module] = {
        "float": PackedLinear(linear(outputs, inputs), kernels),
        "mixed": PackedMixedLinear(int8(Int8WeightOnlyLinear, outputs, inputs), kernels),
        "int8": PackedInt8Linear(int8(Int8DynamicLinear, outputs, inputs), kernels),
    }
    layer = layers[kind]
    x = torch.randn(rows, inputs)
    together = layer(x)
    for count in (1, 2, 5, 7, 12, 13, 30):
        for first in range(0, rows - count, count):
            assert torch.equal(layer(x[first : first + count]), together[first : first + count])


def test_what_is_not_a_number_stays_in_its_row(kernels: ctypes.CDLL) -> None:
    x = torch.randn(4, 40)
    x[1, 3], x[2, 5] = float("nan"), float("inf")
    for layer in (PackedLinear(linear(9, 40), kernels), PackedInt8Linear(int8(Int8DynamicLinear, 9, 40), kernels)):
        is_finite = layer(x).isfinite().all(dim=1)
        assert is_finite.tolist() == [True, False, False, True]


def test_transposed_weights_and_leading_dimensions(kernels: ctypes.CDLL) -> None:
    layer = Conv1D(50, 30).requires_grad_(False)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 30)
    assert torch.allclose(PackedLinear(layer, kernels)(x), layer(x), atol=1e-5)
    assert PackedLinear(layer, kernels)(x[:0]).shape == (0, 3, 50)


def test_rows_of_a_shared_embedding(kernels: ctypes.CDLL) -> None:
    layer = linear(101, 24, has_bias=False)
    packed = PackedLinear(layer, kernels)
    embedding = SharedEmbedding(packed, nn.Embedding(101, 24), torch.float32)
    ids = torch.tensor([[0, 100, 33], [31, 32, 0]])
    assert torch.equal(embedding(ids), layer.weight[ids])
    assert torch.equal(packed.weight, layer.weight)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("is_tied", [False, True])
def test_a_model_keeps_one_copy_of_its_weights_and_its_answers(family: str, is_tied: bool) -> None:
    model = build_model(family, tie_word_embeddings=is_tied)
    ids = torch.tensor([random_prompts(1)[0]])
    with torch.inference_mode():
        want = model(ids).logits
        size = sum(parameter.numel() for parameter in model.parameters())
        assert prepare_linears(model) > 8
        assert torch.allclose(model(ids).logits, want, atol=1e-3)
    kept = sum(parameter.numel() for parameter in model.parameters())
    packed = sum(module.panels.numel() for module in model.modules() if isinstance(module, PackedLinear))
    biases = sum(
        module.bias.numel()
        for module in model.modules()
        if isinstance(module, PackedLinear) and module.bias is not None
    )
    assert kept + packed + biases == pytest.approx(size, rel=0.02)


def test_hooked_and_other_layers_stay() -> None:
    class Special(nn.Linear):
        pass

    model = nn.ModuleDict({"hooked": linear(4, 4), "special": Special(4, 4), "narrow": linear(4, 4).bfloat16()})
    model["hooked"].register_forward_hook(lambda module, args, output: output + 1)
    assert prepare_linears(model) == 0


def test_the_engine_answers_alike_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = random_prompts(3)
    model = build_model("qwen2")
    want = [generate(model, prompt) for prompt in prompts]
    requests = [greedy(at, prompt) for at, prompt in enumerate(prompts)]
    with_kernels = generate_all(build_engine(model), requests)
    monkeypatch.setattr(linears, "load_library", lambda: None)
    without = generate_all(build_engine(build_model("qwen2")), requests)
    assert [found.token_ids for found in with_kernels] == [found.token_ids for found in without] == want


def test_rows_of_an_int8_embedding(kernels: ctypes.CDLL) -> None:
    layer = int8(Int8DynamicLinear, 101, 27)
    ids = torch.tensor([[0, 100, 33], [31, 32, 0]])
    assert torch.equal(PackedInt8Linear(layer, kernels).rows_of(ids), layer.weight[ids] * layer.scale[ids, None])


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("has_kernels", [False, True])
def test_an_int8_output_layer_answers_as_in_plain_transformers(
    is_tied: bool, has_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_kernels:
        for module in (linears, fused):
            monkeypatch.setattr(module, "load_library", lambda: None)
    prompts = random_prompts(5)
    plain = build_model("qwen2", tie_word_embeddings=is_tied)
    quantize_output_layer(plain)
    expected = [generate(plain, prompt) for prompt in prompts]
    engine = build_engine(build_model("qwen2", tie_word_embeddings=is_tied), int8_output_layer=True)
    completions = generate_all(engine, [greedy(at, prompt) for at, prompt in enumerate(prompts)])
    assert [each.token_ids for each in completions] == expected
    kinds = {type(module) for module in engine._runner._model.modules()}
    assert (PackedInt8Linear if has_kernels else Int8DynamicLinear) in kinds
    assert (SharedEmbedding in kinds) == is_tied


def test_an_output_layer_that_is_not_plain_is_refused() -> None:
    model = build_model()
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(EngineError, match="cannot be held in int8"):
        quantize_output_layer(model)
