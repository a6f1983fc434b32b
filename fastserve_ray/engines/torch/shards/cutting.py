"""From an empty model to one rank's share of it: which modules change, and where each tensor's numbers go."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import nn

from fastserve_ray.engines.torch.shards.layers import RowParallel, VocabularyEmbedding, VocabularyHead
from fastserve_ray.engines.torch.shards.plan import SHARDS_KEY, plan_for, share_of
from fastserve_ray.errors import EngineError
from fastserve_ray.models.cuts import COLUMNS, Cut, Share, find_cut
from fastserve_ray.models.layers import is_linear, replace_layer, weight_by_output
from fastserve_ray.models.quantized import Int8Linear

if TYPE_CHECKING:
    import torch

    from fastserve_ray.engines.torch.shards.collectives import Collectives


@dataclass(frozen=True)
class Home:
    """Where a tensor of the checkpoint goes, and what of it."""

    module: nn.Module
    attribute: str
    axis: int | None = None
    """Along which it is cut; None when it is taken whole."""
    ranges: tuple[tuple[int, int], ...] = ()
    """The runs along ``axis`` that this rank keeps, in this order."""
    is_transposed: bool = False
    """Whether the checkpoint has inputs first, as GPT-2 does."""

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """Give the module its share; returns it as the module holds it."""
        if self.attribute in self.module._parameters and not isinstance(tensor, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=False)
        setattr(self.module, self.attribute, tensor)
        return tensor


def cut_model(model: Any, collectives: Collectives) -> dict[str, Home]:
    """Replace the layers of ``model`` (a causal LM of transformers without weights) by this rank's share of them.

    Returns:
        a home for each name of the whole model's state, of which tied tensors have one for each name.

    Raises:
        EngineError: the family has no plan, or the heads cannot be shared out evenly.
    """
    plan = plan_for(model.config.model_type)
    cutter = _Cutter(model, share_of(model.config, collectives.rank, collectives.num_shards), collectives)
    for name, module in list(model.named_modules()):
        cut = find_cut(plan, name)
        if cut is not None:
            cutter.linear(name, module, cut)
            if cut.side == "outputs" and "heads" in cut.parts:
                _localise(model.get_submodule(name.rpartition(".")[0]), cutter.share)
    cutter.vocabulary()
    return cutter.homes


class _Cutter:
    """Cuts layers of ``model`` and keeps book of where their tensors go."""

    def __init__(self, model: Any, share: Share, collectives: Collectives) -> None:
        self._model = model
        self.share = share
        self._collectives = collectives
        self.homes: dict[str, Home] = {}
        for name in model.state_dict():
            module_name, _, attribute = name.rpartition(".")
            self.homes[name] = Home(model.get_submodule(module_name), attribute)

    def linear(self, name: str, module: nn.Module, cut: Cut) -> None:
        """A linear layer, GPT-2's kind, or an int8 one."""
        axis = 0 if cut.side == "outputs" else 1
        sizes = _sizes(name, module)
        ranges = tuple(self.share.ranges(cut, sizes[axis]))
        sizes[axis] = sum(last - first for first, last in ranges)
        bias = getattr(module, "bias", None)
        is_transposed = not isinstance(module, Int8Linear | nn.Linear)
        local = _empty_linear(module, sizes, has_bias=bias is not None and axis == 0)
        layer = local if axis == 0 else RowParallel(local, bias, self._collectives)
        self.homes[f"{name}.weight"] = Home(local, "weight", 1 - axis if is_transposed else axis, ranges, is_transposed)
        for attribute, holder in (("scale", local), ("bias", layer)):
            if f"{name}.{attribute}" in self.homes:
                # one number for each output: cut with the outputs, else whole
                home = Home(holder, attribute, 0, ranges) if axis == 0 else Home(holder, attribute)
                self.homes[f"{name}.{attribute}"] = home
        replace_layer(self._model, name, layer)

    def vocabulary(self) -> None:
        """The embedding and the head by rows: both, since they are the same tensor in many families."""
        names = {module: name for name, module in self._model.named_modules()}
        embedding, head = self._model.get_input_embeddings(), self._model.get_output_embeddings()
        first, last = self.share.bounds("features", int(embedding.weight.shape[0]))
        self.homes[f"{names[embedding]}.weight"] = Home(embedding, "weight", 0, ((first, last),))
        embedding.num_embeddings, embedding.padding_idx = last - first, None
        replace_layer(self._model, names[embedding], VocabularyEmbedding(embedding, first, last, self._collectives))
        num_tokens, num_shards = _sizes(names[head], head)[0], self.share.num_shards
        ends = [rank * num_tokens // num_shards for rank in range(num_shards + 1)]
        self.linear(names[head], head, COLUMNS)
        local = self._model.get_submodule(names[head])
        widths = [last - first for first, last in pairwise(ends)]
        replace_layer(self._model, names[head], VocabularyHead(local, widths, self._collectives))


def _sizes(name: str, module: nn.Module) -> list[int]:
    """[outputs, inputs].

    Raises:
        EngineError: not a linear layer.
    """
    if isinstance(module, Int8Linear):
        return [module.out_features, module.in_features]
    if is_linear(module):
        return list(weight_by_output(module).shape)
    raise EngineError(
        "this layer cannot be cut into shards",
        value=f"{name}: {type(module).__name__}",
        allowed="linear layers, and the int8 layers of the compress stage",
        key=SHARDS_KEY,
    )


def _empty_linear(module: nn.Module, sizes: list[int], *, has_bias: bool) -> nn.Module:
    """A layer of ``sizes`` (outputs, inputs) without memory; GPT-2's becomes an ordinary one."""
    if isinstance(module, Int8Linear):
        return type(module)(sizes[1], sizes[0], has_bias=has_bias).to("meta")
    return nn.Linear(sizes[1], sizes[0], bias=has_bias, device="meta", dtype=module.weight.dtype)


def _localise(attention: nn.Module, share: Share) -> None:
    """What some families' attention remembers about heads."""
    local = {
        "num_heads": share.heads_here,
        "num_key_value_groups": share.heads_here // share.kv_heads_here,
        "split_size": getattr(attention, "split_size", 0) // share.num_shards,
    }
    for name, value in local.items():
        if hasattr(attention, name):
            setattr(attention, name, value)
