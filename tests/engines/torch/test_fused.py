"""Fused decoder layers against the layers that they replace, at every level that this processor has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from fastserve_ray.compress.quantize import quantize_model
from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.torch import fused, linears
from fastserve_ray.engines.torch.attention import running
from fastserve_ray.engines.torch.fused import FusedLayer, fuse_layers
from fastserve_ray.engines.torch.kv_cache import KvCache, LayerShape
from fastserve_ray.engines.torch.linears import prepare_linears
from fastserve_ray.engines.torch.ragged import RaggedStep, Span
from fastserve_ray.engines.torch.runner import adopt, forward
from fastserve_ray.errors import EngineError
from fastserve_ray.native import library
from fastserve_ray.spec.compress import QuantizeStep
from tests.engines.tiny import build_engine, build_model, generate, greedy, random_prompts

if TYPE_CHECKING:
    import ctypes

pytestmark = pytest.mark.skipif(library.load_library() is None, reason="no kernels here: no x86, or no C++ compiler")

LEVELS = [name for name, flags, _ in library.LEVELS if flags <= library.cpu_flags()]
FUSED = ("llama", "mistral", "qwen2", "qwen3")
LENGTHS = (3, 9, 17, 30)
"""Tokens of the sequences of a step; the last is a chunk of a prompt, the others read one token."""


@pytest.fixture(params=LEVELS)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    _, _, flags = next(level for level in library.LEVELS if level[0] == request.param)
    loaded = library._open(library._built(request.param, (*library._FLAGS, *flags)))
    for module in (linears, fused):
        monkeypatch.setattr(module, "load_library", lambda: loaded)
    return loaded


def model_of(family: str, scheme: str) -> Any:
    model = build_model(family)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    if scheme != "float32":
        quantize_model(model, QuantizeStep.model_validate({"kind": "quantize", "scheme": scheme}))
    return model


def spans_of(lengths: tuple[int, ...], chunk: int, *, scattered: bool) -> tuple[list[Span], list[Span]]:
    """What is read first, and then: one token of each sequence but the last, ``chunk`` of that."""
    order = np.random.default_rng(0).permutation(sum(lengths)) if scattered else np.arange(sum(lengths))
    before, then, place, rows, later_rows = [], [], 0, 0, 0
    for at, length in enumerate(lengths):
        slots = order[place : place + length]
        num_new = chunk if at == len(lengths) - 1 else 1
        before.append(Span(rows, 0, length - num_new, slots, not scattered))
        then.append(Span(later_rows, length - num_new, num_new, slots, not scattered))
        place, rows, later_rows = place + length, rows + length - num_new, later_rows + num_new
    return before, then


@torch.inference_mode()
def logits_of(model: Any, shapes: list[LayerShape], steps: tuple[list[Span], ...]) -> torch.Tensor:
    """Of all rows of the last step."""
    cache = KvCache(shapes, sum(LENGTHS), torch.device("cpu"))
    for spans in steps:
        ids = torch.tensor(
            [(13 * at + 5 * int(span.slots[at])) % 90 for span in spans for at in range(span.start, span.end)]
        )
        positions = torch.tensor([at for span in spans for at in range(span.start, span.end)])
        with running(RaggedStep(cache, spans)):
            logits = forward(model, ids, positions, torch.arange(len(ids)))
    return logits


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("scheme", ["float32", "int8-dynamic", "int8-weight-only"])
@pytest.mark.parametrize("family", FUSED)
def test_logits_are_those_of_the_layers(kernels: ctypes.CDLL, family: str, scheme: str, scattered: bool) -> None:
    model = model_of(family, scheme)
    shapes = adopt(model)
    prepare_linears(model)
    steps = spans_of(LENGTHS, 7, scattered=scattered)
    expected = logits_of(model, shapes, steps)
    assert fuse_layers(model, shapes) == len(shapes)
    scale = float(expected.abs().max())
    error = float((logits_of(model, shapes, steps) - expected).abs().max())
    assert error < scale * (1e-5 if scheme != "int8-dynamic" else 0.03)


@pytest.mark.parametrize("scheme", ["float32", "int8-dynamic", "int8-weight-only"])
def test_a_row_alone_and_among_others_is_the_same_bits(kernels: ctypes.CDLL, scheme: str) -> None:
    model = model_of("qwen2", scheme)
    shapes = adopt(model)
    prepare_linears(model)
    fuse_layers(model, shapes)
    before, then = spans_of(LENGTHS, 1, scattered=True)
    together = logits_of(model, shapes, (before, then))
    for at, span in enumerate(then):
        alone = Span(0, span.start, 1, span.slots, is_contiguous=False)
        assert torch.equal(logits_of(model, shapes, (before, [alone])), together[at : at + 1])


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int8-weight-only"])
def test_int8_tokens_do_not_depend_on_the_batch(scheme: str) -> None:
    prompts = random_prompts(6)
    requests = [greedy(at, prompt, 16) for at, prompt in enumerate(prompts)]
    together = generate_all(build_engine(model_of("llama", scheme), max_num_seqs=6), requests)
    alone = generate_all(build_engine(model_of("llama", scheme), max_num_seqs=1), requests)
    assert [each.token_ids for each in together] == [each.token_ids for each in alone]


def test_many_query_heads_and_a_width_that_fills_no_vector(kernels: ctypes.CDLL) -> None:
    """One key head for eleven query heads of 10 dimensions; the window hides the beginning."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(1)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=90,
            hidden_size=110,
            intermediate_size=75,
            num_hidden_layers=2,
            num_attention_heads=11,
            num_key_value_heads=1,
            head_dim=10,
            sliding_window=12,
        )
    )
    shapes = adopt(model)
    prepare_linears(model)
    steps = spans_of(LENGTHS, 5, scattered=True)
    expected = logits_of(model, shapes, steps)
    assert fuse_layers(model, shapes) == 2
    assert torch.allclose(logits_of(model, shapes, steps), expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["gemma", "gpt2", "mixtral"])
def test_other_families_stay_as_they_are(family: str) -> None:
    model = build_model(family)
    shapes = adopt(model)
    prepare_linears(model)
    assert fuse_layers(model, shapes) == 0


def test_what_others_changed_stays_as_it_is() -> None:
    model = build_model()
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    model.model.layers[1].self_attn.q_proj = torch.nn.Sequential(model.model.layers[1].self_attn.q_proj)
    shapes = adopt(model)
    prepare_linears(model)
    assert fuse_layers(model, shapes) == 0
    other = build_model()
    other.config.hidden_act = "gelu"
    assert fuse_layers(other, adopt(other)) == 0


def test_without_kernels_tokens_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = random_prompts(3)
    expected = [generate(build_model(), prompt) for prompt in prompts]
    for module in (linears, fused):
        monkeypatch.setattr(module, "load_library", lambda: None)
    engine = build_engine()
    assert not any(isinstance(module, FusedLayer) for module in engine._runner._model.modules())
    completions = generate_all(engine, [greedy(at, prompt) for at, prompt in enumerate(prompts)])
    assert [each.token_ids for each in completions] == expected


def test_a_fused_layer_is_not_called_by_itself() -> None:
    model = build_model()
    shapes = adopt(model)
    prepare_linears(model)
    fuse_layers(model, shapes)
    with pytest.raises(EngineError, match="belongs to a FastServe engine"):
        model(torch.tensor([[3, 4]]))
