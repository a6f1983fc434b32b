"""The optimizer of one stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.training.world import World


def make_stage_optimizer(
    whole: torch.optim.AdamW, held: Sequence[torch.nn.Parameter], world: World, *, zero: int
) -> torch.optim.Optimizer:
    """The same groups over the parameters of this stage.

    ZeRO 1 is torch's ZeroRedundancyOptimizer: it takes any process group and gradients that are already there, where
    DeepSpeed's would own the backward pass. It shares out whole parameters, the largest first.

    Args:
        whole: over the whole model, never stepped.
    """
    own = {id(parameter) for parameter in held}
    groups: list[dict[str, Any]] = []
    for group in whole.param_groups:
        parameters = [parameter for parameter in group["params"] if id(parameter) in own]
        if parameters:
            groups.append({**group, "params": parameters})
    if not groups:  # all of this stage is frozen
        return torch.optim.AdamW([{"params": []}])
    if zero == 1 and world.data_group is not None:
        return ZeroRedundancyOptimizer(
            groups, torch.optim.AdamW, process_group=world.data_group, lr=whole.defaults["lr"]
        )
    return torch.optim.AdamW(groups)


def own_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """What holds the state of this rank."""
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        local: torch.optim.Optimizer = optimizer.optim
        return local
    return optimizer
