"""Cutting and joining, and the random numbers of cut layers; no other rank is needed."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from fastserve_ray.models.cuts import COLUMNS, QKV_OUT, Cut, Share
from fastserve_ray.spec.checks.parallel import CUT_FAMILIES
from fastserve_ray.training.tensor.cutting import cut_model
from fastserve_ray.training.tensor.dropout import HeadDropout
from fastserve_ray.training.tensor.layers import ColumnParallel
from fastserve_ray.training.tensor.limits import FAMILIES
from fastserve_ray.training.tensor.shards import Piece
from fastserve_ray.training.world import World


@pytest.mark.parametrize(("cut", "size", "axis"), [(QKV_OUT, 64, 1), (QKV_OUT, 64, 0), (COLUMNS, 51, 0)])
def test_parts_make_the_whole(cut: Cut, size: int, axis: int) -> None:
    piece = Piece(axis, tuple(tuple(Share(rank, 2, 4, 2).ranges(cut, size)) for rank in range(2)))
    whole = torch.randn(size, size)
    parts = [piece.cut(whole, rank) for rank in range(2)]
    assert [part.shape[axis] for part in parts] == piece.widths
    assert piece.join(parts).equal(whole)


def test_heads_draw_their_own_and_the_rest_draws_the_same() -> None:
    drawn = []
    for rank in range(2):
        torch.manual_seed(7)
        dropout = HeadDropout(rank, torch.device("cpu"))
        row = []
        for _layer in range(2):
            dropout.enter()
            dropout.enter()
            own = torch.rand(8)
            dropout.leave()
            dropout.leave()
            row += [own, torch.rand(8)]
        drawn.append(row)
    (own, shared, own_later, shared_later), (other, shared_there, other_later, shared_later_there) = drawn
    assert shared.equal(shared_there)
    assert shared_later.equal(shared_later_there)
    assert len({tuple(values.tolist()) for values in (own, other, own_later, other_later, shared, shared_later)}) == 6


def test_layers_without_dropout_between_them_draw_anew() -> None:
    dropout = HeadDropout(0, torch.device("cpu"))
    torch.manual_seed(7)
    masks = []
    for _layer in range(2):
        dropout.enter()
        masks.append(torch.rand(8))
        dropout.leave()
    assert not masks[0].equal(masks[1])


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("rows", [None, slice(0, 2)])
def test_no_view_of_a_weight_waits_for_the_backward_pass(
    *, is_transposed: bool, rows: slice | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep alive what ZeRO-3 lets go of after the forward pass. DeepSpeed's linear takes the place of torch's
    there."""
    from deepspeed.runtime.zero.linear import LinearFunctionForZeroStage3

    monkeypatch.setattr(torch.nn.functional, "linear", LinearFunctionForZeroStage3.apply)
    weight = torch.nn.Parameter(torch.randn(4, 4))
    layer = ColumnParallel(weight, torch.nn.Parameter(torch.zeros(4)), is_transposed=is_transposed, rows=rows)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(2, 3, 4, requires_grad=True))
    memory = weight.untyped_storage().data_ptr()
    own = [tensor for tensor in kept if tensor.untyped_storage().data_ptr() == memory]
    assert own
    assert all(tensor is weight for tensor in own)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_autocast_gives_16_bits_with_a_bias_too(*, is_transposed: bool) -> None:
    """A bias in fp32, added after the product, would make it fp32 again."""
    weight, bias = (torch.nn.Parameter(torch.randn(size)) for size in ((4, 4), (4,)))
    layer, inputs = ColumnParallel(weight, bias, is_transposed=is_transposed), torch.randn(2, 3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(inputs)
    expected = inputs @ (weight if is_transposed else weight.t()) + bias
    assert outputs.dtype == torch.bfloat16
    assert torch.allclose(outputs.float(), expected, atol=0.1)


def test_validation_knows_the_families_that_can_be_cut() -> None:
    assert set(CUT_FAMILIES) == set(FAMILIES)


def test_nothing_keeps_the_whole_weights_once_they_are_cut() -> None:
    """A hook that holds the book of all parameters would."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=10, n_positions=4))
    whole = {name: weakref.ref(parameter) for name, parameter in model.named_parameters()}
    group: Any = object()  # nothing is exchanged yet
    shards = cut_model(model, World(rank=0, size=2, tensor_size=2, tensor_group=group))
    gc.collect()
    assert {name for name, parameter in whole.items() if parameter() is None} == set(shards.pieces) - {"lm_head.weight"}
    assert len(shards.pieces) == 8
