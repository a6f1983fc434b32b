"""Cuts a model of transformers into a stage, in place.

Every stage runs the forward pass of the model itself: masks, positions and rotary embeddings are computed from the
batch by the model's own code on each stage, and only hidden states travel. Modules of other stages lose their weights
(they stay as shapes on the meta device, so names and the config are those of the whole model) and let hidden states
through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.errors import ModelError
from fastserve_ray.plan.pipeline import share_out
from fastserve_ray.training.pipeline.families import cut_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastserve_ray.training.pipeline.families import CutPlan
    from fastserve_ray.training.pipeline.timing import Costs


@dataclass(frozen=True)
class Pieces:
    """The modules of a whole model, in the order of its forward pass."""

    entry: list[torch.nn.Module]
    layers: list[torch.nn.Module]
    exit: list[torch.nn.Module]

    @classmethod
    def of(cls, model: Any) -> Pieces:
        """
        Raises:
            ModelError: no plan for this model.
        """
        plan: CutPlan = cut_plan(model)
        base: torch.nn.Module = model.base_model
        heads = [child for child in model.children() if child is not base] if model is not base else []
        return cls(
            entry=_present(base, plan.entry),
            layers=list(base.get_submodule(plan.layers).children()),
            exit=_present(base, plan.exit) + heads,
        )

    def shares(self, num_stages: int, costs: Costs | None = None) -> tuple[range, ...]:
        """Layers of each stage, balanced by parameters, or by ``costs``.

        Raises:
            ModelError: fewer layers than stages.
        """
        if len(self.layers) < num_stages:
            raise ModelError(
                "more stages than layers",
                value=str(num_stages),
                allowed=f"at most {len(self.layers)}",
                key="train.parallel.pipeline",
            )
        if costs is not None:
            return share_out(costs.layers, num_stages, first=costs.first, last=costs.last)
        layers = [count_parameters([layer]) for layer in self.layers]
        return share_out(layers, num_stages, first=count_parameters(self.entry), last=count_parameters(self.exit))

    def tied(self) -> list[torch.nn.Parameter]:
        """Weights that both the first and the last stage hold: embeddings that are the head as well."""
        last = {id(parameter) for parameter in _parameters(self.exit)}
        return [parameter for parameter in _parameters(self.entry) if id(parameter) in last]


def cut(pieces: Pieces, layers: range, *, is_first: bool, is_last: bool) -> None:
    """Leave the weights of these layers, and those of the entry and the exit where they belong."""
    for number, layer in enumerate(pieces.layers):
        if number not in layers:
            _leave_out(layer, _first_argument)
    if not is_first:
        for module in pieces.entry:
            _leave_out(module, _embedded)
    if not is_last:
        for module in pieces.exit:
            _leave_out(module, _first_argument)


def count_parameters(modules: list[torch.nn.Module]) -> int:
    """Numbers in the weights of these modules; shared ones count once."""
    return sum(parameter.numel() for parameter in _parameters(modules))


def move_to(model: torch.nn.Module, device: str) -> None:
    """Move what a stage holds to its device."""
    for parameter in held_parameters(model):
        parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if not buffer.is_meta:
                setattr(module, name, buffer.to(device))


def held_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters whose weights are here."""
    return [parameter for parameter in model.parameters() if not parameter.is_meta]


def _present(base: torch.nn.Module, names: tuple[str, ...]) -> list[torch.nn.Module]:
    """Some models have no pooler."""
    found = [getattr(base, name) for name in names]
    return [module for module in found if module is not None]


def _parameters(modules: list[torch.nn.Module]) -> Iterator[torch.nn.Parameter]:
    """Each once."""
    parameters: Iterator[torch.nn.Parameter] = torch.nn.ModuleList(modules).parameters()
    return parameters


def _leave_out(module: torch.nn.Module, instead: Callable[..., torch.Tensor]) -> None:
    """The module keeps its place and its name, without weights and work."""
    module.to("meta")
    module.forward = instead
    if hasattr(module, "gradient_checkpointing"):
        module.gradient_checkpointing = False  # nothing to recompute


def _first_argument(hidden_states: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    """A layer of another stage."""
    return hidden_states


def _embedded(*inputs: torch.Tensor, inputs_embeds: torch.Tensor | None = None, **_: object) -> torch.Tensor:
    """A part of the entry on a later stage, where the hidden states come in as ``inputs_embeds``: what holds all
    embeddings (BERT) gives them back, dropout (GPT-2) lets them through, and what adds positions to them adds zero."""
    if inputs_embeds is not None:
        return inputs_embeds
    return inputs[0] if inputs[0].is_floating_point() else torch.zeros((), device=inputs[0].device)
