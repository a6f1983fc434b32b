"""AdamW over what is trained, with the usual exclusions from weight decay, and learning rates by layer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.errors import ModelError
from fastserve_ray.training.adapters.table import adapter_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec import TrainSpec

SCALE = "lr_scale"
"""Key of a parameter group: what the learning rate is multiplied by."""
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_FACTORS = "ia3_l"
"""IA3's factors, which begin at 1: to decay them would switch the model's activations off."""


def decays(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter, bool]]:
    """The trained parameters by name, and whether weight decay applies.

    Matrices and embeddings decay, as in the GPT papers and in transformers' Trainer. Out of it are biases, all
    parameters of norms whatever their shape, other vectors (gates, scales), and what a model marks itself.
    """
    in_norms = {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if _is_norm(module)
        for own, _ in module.named_parameters(recurse=False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_kept = name in in_norms or name.rpartition(".")[2] == "bias" or f".{_FACTORS}." in name
            is_marked = getattr(parameter, "_no_weight_decay", False)
            yield name, parameter, not (is_kept or is_marked or parameter.ndim < 2)


def parameter_groups(model: torch.nn.Module, weight_decay: float, layer_lr_decay: float = 1.0) -> list[dict[str, Any]]:
    """One group for each decay and learning rate, those that decay first.

    Raises:
        ModelError: the model has no numbered layers.
    """
    scales = _scales(model, layer_lr_decay)
    groups: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
    for name, parameter, is_decayed in decays(model):
        groups.setdefault((not is_decayed, scales.get(name, 1.0)), []).append(parameter)
    return [
        {"params": params, "weight_decay": 0.0 if is_kept else weight_decay, SCALE: scale}
        for (is_kept, scale), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def _is_norm(module: torch.nn.Module) -> bool:
    """LayerNorm, GroupNorm, and every family's RMSNorm, by the name of the class."""
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


def _scales(model: torch.nn.Module, decay: float) -> dict[str, float]:
    """What the rate of each parameter is multiplied by: 1 above the last layer, ``decay`` less with every layer
    below."""
    if decay == 1:
        return {}
    names = [name for name, _ in model.named_parameters()]
    found = {name: int(match[1]) for name in names if (match := _LAYER.search(name)) is not None}
    if not found:
        raise ModelError(
            "this model has no numbered layers",
            value=type(model).__name__,
            allowed="parameters such as model.layers.0.mlp.weight",
            key="train.layer_lr_decay",
        )
    count = max(found.values()) + 1
    first = min(names.index(name) for name in found)
    depths = {name: found.get(name, -1 if names.index(name) < first else count) for name in names}
    return {name: decay ** (count - depth) for name, depth in depths.items()}


def make_adamw(model: torch.nn.Module, train: TrainSpec) -> torch.optim.AdamW:
    """Decoupled weight decay, arXiv 1711.05101. States on a disk are updated without temporaries, which would be as
    large.

    Raises:
        ModelError: learning rates by layer for a model without numbered layers.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(model, train.weight_decay, train.layer_lr_decay),
        lr=train.learning_rate,
        betas=(train.adam_beta1, train.adam_beta2),
        eps=train.adam_epsilon,
        fused=True if train.parallel.offload == "nvme" else None,
    )
    adapter = adapter_of(model)
    if adapter is not None:
        adapter.watch(optimizer)
    return optimizer


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """The rate of every group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get(SCALE, 1.0)
