"""AdaLoRA: LoRA as P Λ Q, whose entries of Λ are set to zero by importance while training goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.errors import ModelError
from fastserve_ray.spec import AdaLoraAdapter
from fastserve_ray.training.adapters.tuners import NAME, Tuner, lora_targets

if TYPE_CHECKING:
    from collections.abc import Mapping

_SENSITIVITY, _UNCERTAINTY, _KEPT = "sensitivity", "uncertainty", "kept"
"""Kinds of optimizer state: smoothed importance of each entry, its spread, and which ranks are settled."""


class AdaLoraTuner(Tuner[AdaLoraAdapter]):
    """``train.adapter.kind: adalora``. Works in hooks of the optimizer: before an update, when gradients are those of
    the whole batch, it adds that of the orthogonality term; after it, it judges and takes away ranks."""

    def config(self, model: Any) -> Any:
        from peft import AdaLoraConfig

        spec, total = self.spec, self.occasion.total_steps
        warmup, final = int(spec.warmup * total), max(1, round(spec.final * total))
        if warmup >= total - final:
            raise ModelError(
                "too few steps for AdaLoRA's three phases",
                value=f"{total} steps",
                allowed="at least one step between train.adapter.warmup and train.adapter.final",
                key="train.adapter.final",
                hint="train longer, or take adapter.kind: lora",
            )
        return AdaLoraConfig(
            init_r=spec.init_r,
            target_r=spec.target_r,
            lora_alpha=spec.lora_alpha,
            lora_dropout=spec.lora_dropout,
            target_modules=lora_targets(spec.target_modules, model),
            tinit=warmup,
            tfinal=final,
            deltaT=spec.every_steps,
            orth_reg_weight=spec.orthogonality,
            total_step=total,
        )

    def tuned(self, model: Any) -> Any:
        from peft import AdaLoraModel

        return AdaLoraModel(model, self.config(model), NAME)

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.register_step_pre_hook(lambda *_: self._keep_orthogonal())
        optimizer.register_step_post_hook(lambda *_: self._share_out_ranks(optimizer))

    def _factors(self) -> list[torch.nn.Parameter]:
        named = self.tuner.model.named_parameters()
        return [weight for name, weight in named if f"lora_A.{NAME}" in name or f"lora_B.{NAME}" in name]

    def _keep_orthogonal(self) -> None:
        """The gradient of the mean of ||P'P - I|| over all factors, equal on every worker."""
        factors = self._factors()
        if not self.spec.orthogonality or not factors:
            return
        with torch.enable_grad():
            terms = [_distance(weight) for weight in factors]
            loss = self.spec.orthogonality * torch.stack(terms).mean()
        for weight, gradient in zip(factors, torch.autograd.grad(loss, factors), strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad + gradient

    def _share_out_ranks(self, optimizer: torch.optim.Optimizer) -> None:
        """The number of the step and the importance so far are the optimizer's state, so a checkpoint has them."""
        weights = {name: weight for name, weight in self.tuner.model.named_parameters() if weight.requires_grad}
        step = int(optimizer.state[next(iter(weights.values()))]["step"])
        if step > 1:
            self._recall(optimizer, weights)
        self.tuner.update_and_allocate(step)
        self._remember(optimizer, weights)

    def _recall(self, optimizer: torch.optim.Optimizer, weights: Mapping[str, torch.Tensor]) -> None:
        allocator, pattern = self.tuner.rankallocator, {}
        for name, weight in weights.items():
            state = optimizer.state[weight]
            if _SENSITIVITY in state:
                allocator.ipt[name] = torch.zeros_like(weight)
                allocator.exp_avg_ipt[name], allocator.exp_avg_unc[name] = state[_SENSITIVITY], state[_UNCERTAINTY]
            if _KEPT in state:
                pattern[name] = state[_KEPT].bool().flatten().tolist()
        self.tuner.peft_config[NAME].rank_pattern = pattern or None

    def _remember(self, optimizer: torch.optim.Optimizer, weights: Mapping[str, torch.Tensor]) -> None:
        allocator, pattern = self.tuner.rankallocator, self.tuner.peft_config[NAME].rank_pattern or {}
        for name, weight in weights.items():
            state = optimizer.state[weight]
            found = {_SENSITIVITY: allocator.exp_avg_ipt.get(name), _UNCERTAINTY: allocator.exp_avg_unc.get(name)}
            if name in pattern:
                found[_KEPT] = torch.tensor(pattern[name], dtype=weight.dtype, device=weight.device).view_as(weight)
            for kind in (_SENSITIVITY, _UNCERTAINTY, _KEPT):
                state.pop(kind, None)
            state.update({kind: value for kind, value in found.items() if value is not None})


def _distance(factor: torch.Tensor) -> torch.Tensor:
    """||F F' - I|| (Frobenius) over the smaller side of ``factor``."""
    rows = factor if factor.shape[0] <= factor.shape[1] else factor.T
    product: torch.Tensor = rows @ rows.T
    return torch.linalg.matrix_norm(product - torch.eye(len(rows), device=rows.device))
