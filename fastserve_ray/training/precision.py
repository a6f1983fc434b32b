"""Which number format a device is made for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from fastserve_ray.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Names of bf16 units in /proc/cpuinfo on x86-64 and on Arm."""


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether the processor multiplies in bf16; None where the system does not say."""
    if not cpuinfo.exists():
        return None
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return bool(BF16_FLAGS & set(value.split()))
    return None


def precision_warning(precision: str, device: str) -> str | None:
    """What to tell a user whose hardware does not suit ``train.precision``; None when it does."""
    if precision != "bf16":
        return None
    if device.startswith("cuda"):
        has_units = torch.cuda.is_bf16_supported()
        return None if has_units else "this GPU has no bf16 units: set train.precision: fp32"
    if cpu_has_bf16() is False:
        return "this CPU has no bf16 units and trains about 3 times slower in bf16: set train.precision: fp32"
    return None


def refuse_precision(precision: str, device: str) -> None:
    """Raise for a number format that the device cannot train in.

    Raises:
        TrainingError: fp16 on a CPU, whose matrix products have no fp16 units.
    """
    if precision == "fp16" and not device.startswith("cuda"):
        raise TrainingError(
            "fp16 needs a GPU",
            value="the CPU",
            allowed="train.precision: bf16, or fp32",
            key="train.precision",
            hint="bf16 has the range of fp32 and needs no loss scaling",
        )


_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Around the forward passes of a model with fp32 weights."""
    if precision not in _AUTOCAST:
        return nullcontext()
    context: AbstractContextManager[object] = torch.autocast(
        device.split(":", maxsplit=1)[0], dtype=_AUTOCAST[precision]
    )
    return context


@runtime_checkable
class ScalesLoss(Protocol):
    """A strategy that may scale the loss."""

    def scaling(self) -> dict[str, float]:
        """``loss_scale`` and ``skipped_steps``; nothing when it does not scale."""
        ...


class LossScaler:
    """Loss scaling of mixed precision training (Micikevicius et al. 2018, arXiv 1710.03740) by torch's GradScaler: the
    scale doubles after 2000 good steps, and halves when a gradient is no number; that step changes no weight.

    Passes everything on as it is unless ``precision`` is fp16.
    """

    def __init__(self, precision: str, device: str) -> None:
        self._is_on = precision == "fp16"
        self._scaler = torch.amp.GradScaler(device.split(":", maxsplit=1)[0], enabled=self._is_on)
        self._skipped = 0

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """What goes backward."""
        scaled: torch.Tensor = self._scaler.scale(loss)
        return scaled

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients in their true size, for clipping."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the weights, or leave the step out."""
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        self._skipped += self._scaler.get_scale() < before

    def scaling(self) -> dict[str, float]:
        """See ``ScalesLoss``."""
        if not self._is_on:
            return {}
        return {"loss_scale": float(self._scaler.get_scale()), "skipped_steps": float(self._skipped)}

    def state(self) -> dict[str, JsonValue]:
        """For a checkpoint."""
        return {"scaler": self._scaler.state_dict(), "skipped_steps": self._skipped} if self._is_on else {}

    def load(self, state: Mapping[str, JsonValue]) -> None:
        """From a checkpoint, which may have none."""
        scaler, skipped = state.get("scaler"), state.get("skipped_steps")
        if self._is_on and isinstance(scaler, dict) and isinstance(skipped, int):
            self._scaler.load_state_dict(scaler)
            self._skipped = skipped
