"""Which number format a device is made for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

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


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Around the forward passes of a model with fp32 weights."""
    if precision != "bf16":
        return nullcontext()
    context: AbstractContextManager[object] = torch.autocast(device.split(":", maxsplit=1)[0], dtype=torch.bfloat16)
    return context
