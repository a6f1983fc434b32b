"""From a whole model to this rank's share of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from fastserve_ray.models.cuts import COLUMNS, Cut, Share, find_cut
from fastserve_ray.models.layers import is_linear, replace_layer
from fastserve_ray.training.tensor.collectives import enter
from fastserve_ray.training.tensor.dropout import HeadDropout
from fastserve_ray.training.tensor.layers import ColumnParallel, RowParallel, VocabularyEmbedding, VocabularyHead
from fastserve_ray.training.tensor.limits import FAMILIES, shares_of
from fastserve_ray.training.tensor.shards import Piece, Shards

if TYPE_CHECKING:
    from fastserve_ray.training.world import World

_HIDDEN = "hidden_states"
_OWN_HEADS = (".self_attn.q_norm.weight", ".self_attn.k_norm.weight")
"""Parameters that every rank holds whole, but that see its own heads only."""
_HEAD_DROPOUTS = ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob")


def cut_model(model: Any, world: World) -> Shards:
    """Replace the layers of ``model`` (whole) by this rank's share of them, in place, on the device where it is.

    Tied parameters stay tied, names stay as they are, and what is frozen stays frozen. Parameters that are cut are
    marked ``tensor_model_parallel``, by which DeepSpeed counts each once in the norm of the gradient.
    """
    if world.tensor_group is None:
        return Shards()
    cutter = _Cutter(model, world, world.tensor_group)
    cutter.blocks(FAMILIES[model.config.model_type])
    cutter.vocabulary()
    cutter.share_gradients()
    return cutter.finish()


class _Cutter:
    """Cuts layers and keeps book of the parameters. No hook may hold it: it would keep the whole model in memory."""

    def __init__(self, model: Any, world: World, group: dist.ProcessGroup) -> None:
        self._model = model
        self._rank, self._size, self._group = world.tensor_rank, world.tensor_size, group
        self._shares = shares_of(model.config, self._size)
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._made: dict[nn.Parameter, tuple[nn.Parameter, Piece]] = {}
        drops = any(float(getattr(model.config, name, 0) or 0) > 0 for name in _HEAD_DROPOUTS)
        self._dropout = HeadDropout(self._rank, torch.device(world.device)) if drops else None

    @property
    def _share(self) -> Share:
        return self._shares[self._rank]

    def blocks(self, plan: dict[str, Cut]) -> None:
        """The linear layers inside the blocks."""
        found = [(name, module, find_cut(plan, name)) for name, module in self._model.named_modules()]
        cuts = [(name, module, cut) for name, module, cut in found if cut is not None and is_linear(module)]
        for name, module, cut in cuts:
            made = self._column(module, cut) if cut.side == "outputs" else self._row(module, cut)
            replace_layer(self._model, name, made)
        readers = {name.rpartition(".")[0] for name, _, cut in cuts if cut.side == "outputs"}
        for reader in map(self._model.get_submodule, readers):
            self._localise(reader)
            reader.register_forward_pre_hook(partial(_entered, self._group), with_kwargs=True)

    def _column(self, module: Any, cut: Cut) -> ColumnParallel:
        is_transposed = not isinstance(module, nn.Linear)
        axis = 1 if is_transposed else 0
        dropout = None if cut.parts == ("features",) else self._dropout
        size = module.weight.shape[axis]
        if cut.parts == ("kv_heads",) and self._share.num_kv_heads < self._size:
            ((first, last),) = self._share.ranges(cut, size)
            self._sum_gradients(module.weight, module.bias)
            return ColumnParallel(
                module.weight,
                module.bias,
                is_transposed=is_transposed,
                dropout=dropout,
                rows=slice(first, last),
            )
        ranges = self._ranges(cut, size)
        weight, bias = self._cut(module.weight, axis, ranges), self._cut(module.bias, 0, ranges)
        assert weight is not None
        return ColumnParallel(weight, bias, is_transposed=is_transposed, dropout=dropout)

    def _row(self, module: Any, cut: Cut) -> RowParallel:
        is_transposed = not isinstance(module, nn.Linear)
        axis = 0 if is_transposed else 1
        weight = self._cut(module.weight, axis, self._ranges(cut, module.weight.shape[axis]))
        assert weight is not None
        dropout = None if cut.parts == ("features",) else self._dropout
        return RowParallel(weight, module.bias, is_transposed=is_transposed, group=self._group, dropout=dropout)

    def vocabulary(self) -> None:
        """The embedding and the head by words: both, since they are the same tensor in many families."""
        names = {module: name for name, module in self._model.named_modules()}
        embedding, head = self._model.get_input_embeddings(), self._model.get_output_embeddings()
        ranges = self._ranges(COLUMNS, embedding.weight.shape[0])
        weight = self._cut(embedding.weight, 0, ranges)
        assert weight is not None
        layer = VocabularyEmbedding(
            weight,
            first=ranges[self._rank][0][0],
            padding_idx=embedding.padding_idx,
            scale=getattr(embedding, "embed_scale", None),
            group=self._group,
        )
        replace_layer(self._model, names[embedding], layer)
        if head is not None:
            ranges = self._ranges(COLUMNS, head.weight.shape[0])
            weight, bias = self._cut(head.weight, 0, ranges), self._cut(head.bias, 0, ranges)
            assert weight is not None
            widths = Piece(0, ranges).widths
            scores = VocabularyHead(weight, bias, widths=widths, group=self._group)
            replace_layer(self._model, names[head], scores)

    def share_gradients(self) -> None:
        """Of parameters that are whole but work on the rank's own heads."""
        for name, parameter in self._parameters.items():
            if name.endswith(_OWN_HEADS):
                self._sum_gradients(parameter)

    def finish(self) -> Shards:
        """Put cut parameters under every name that they had."""
        pieces = {}
        for name, parameter in self._parameters.items():
            if parameter in self._made:
                part, pieces[name] = self._made[parameter]
                owner, _, last = name.rpartition(".")
                setattr(self._model.get_submodule(owner), last, part)
        return Shards(self._rank, self._group, pieces)

    def _ranges(self, cut: Cut, size: int) -> tuple[tuple[tuple[int, int], ...], ...]:
        return tuple(tuple(share.ranges(cut, size)) for share in self._shares)

    def _cut(
        self, parameter: nn.Parameter | None, axis: int, ranges: tuple[tuple[tuple[int, int], ...], ...]
    ) -> nn.Parameter | None:
        if parameter is None:
            return None
        if parameter not in self._made:
            piece = Piece(axis, ranges)
            part = nn.Parameter(piece.cut(parameter.detach(), self._rank), requires_grad=parameter.requires_grad)
            part.tensor_model_parallel = True
            self._made[parameter] = part, piece
        return self._made[parameter][0]

    def _sum_gradients(self, *parameters: nn.Parameter | None) -> None:
        for parameter in parameters:
            if parameter is not None and parameter.requires_grad:
                parameter.register_hook(partial(_summed, self._group))

    def _localise(self, attention: nn.Module) -> None:
        """What some families' attention remembers about heads."""
        share = self._share
        for name, value in (
            ("num_heads", share.heads_here),
            ("num_attention_heads", share.heads_here),
            ("num_key_value_groups", share.heads_here // share.kv_heads_here),
        ):
            if hasattr(attention, name):
                setattr(attention, name, value)
        if hasattr(attention, "split_size"):
            attention.split_size = attention.embed_dim // share.num_shards


def _summed(group: dist.ProcessGroup, gradient: torch.Tensor) -> torch.Tensor:
    total = gradient.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def _entered(
    group: dist.ProcessGroup, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], Any]:
    """Before an attention layer or an MLP, whose cut layers all read its hidden states, so that their gradients are one
    sum over the ranks."""
    if args:
        return (enter(args[0], group), *args[1:]), kwargs
    return args, {**kwargs, _HIDDEN: enter(kwargs[_HIDDEN], group)}
