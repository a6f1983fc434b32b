"""How fast training goes: tokens a second, seconds a step, and the share of the machine's arithmetic that is used.

Model FLOPs utilization is the one of Chowdhery et al. 2022 (PaLM, arXiv 2204.02311, appendix B): what the model needs,
without what checkpointing computes twice, by what the hardware could do in the same time.
"""

from __future__ import annotations

import statistics
from collections import deque
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from fastserve_ray.training.world import World

RECENT_STEPS = 200
"""Steps that the median looks at."""
MEMORY_SECONDS = 2.0
"""Least time between two looks at the memory of a process, which cost milliseconds."""
_GEMM_SIZE, _GEMM_RUNS = 512, 6
_FP32, _HALF = 0, 1
GPU_PEAKS: tuple[tuple[str, tuple[float, float]], ...] = (
    ("H200", (67e12, 989e12)),
    ("H100 PCIe", (51e12, 756e12)),
    ("H100", (67e12, 989e12)),
    ("A100", (19.5e12, 312e12)),
    ("L40S", (91.6e12, 362e12)),
    ("L4", (30.3e12, 121e12)),
    ("A10G", (31.2e12, 70e12)),
    ("A10", (31.2e12, 125e12)),
    ("V100", (15.7e12, 125e12)),
    ("T4", (8.1e12, 65e12)),
)
"""FLOP/s in fp32 and in 16 bits, dense, by a part of the device's name; NVIDIA's data sheets. More special names come
first."""


class Speedometer:
    """Counts steps of all workers together.

    Args:
        flops_per_token: of a forward and backward pass.
        peak_flops: FLOP/s of all workers together; 0 when not known.
    """

    def __init__(self, flops_per_token: float, peak_flops: float) -> None:
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._tokens = self._busy = 0.0

    def add(self, seconds: float, tokens: float) -> None:
        """One step over the global batch."""
        self._recent.append(seconds)
        self._tokens += tokens
        self._busy += seconds

    def metrics(self) -> dict[str, float]:
        """``tokens_per_second`` over all steps, ``step_seconds`` (median of the latest), and ``mfu`` (0 to 1) where the
        hardware's peak is known."""
        rate = self._tokens / self._busy
        found = {"tokens_per_second": rate, "step_seconds": statistics.median(self._recent)}
        if self._peak_flops:
            found["mfu"] = rate * self._flops_per_token / self._peak_flops
        return found


def flops_per_token(model: Any, length: int) -> float:
    """Of a forward and backward pass: 6 for each weight in a matrix (4 for a frozen one, which needs no gradient of
    its own), and 12 L H Q T of the attention over T tokens with L layers and H heads of size Q.

    Tables of embeddings are looked up, not multiplied, and do not count, unless they are the output layer too.
    """
    weights: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        if not isinstance(module, torch.nn.Embedding):
            weights |= {id(weight): weight for weight in module.parameters(recurse=False)}
    matrices = sum((6 if weight.requires_grad else 4) * weight.numel() for weight in weights.values())
    return float(matrices + 12 * _attention_width(model.config) * length)


def _attention_width(config: Any) -> int:
    """Layers x heads x size of a head; 0 for a model without attention."""
    layers, heads = (getattr(config, name, 0) or 0 for name in ("num_hidden_layers", "num_attention_heads"))
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    return int(layers * heads * size)


def peak_flops(world: World, precision: str) -> float:
    """FLOP/s of all workers together. Every worker must call it."""
    kind = _FP32 if precision == "fp32" else _HALF
    own = gpu_peak(torch.cuda.get_device_name(), kind) if world.device.startswith("cuda") else None
    measured = own or measured_peak(world.device, precision, torch.get_num_threads())
    return world.sum(measured)[0] * (world.size // world.data_size)


def gpu_peak(name: str, kind: int) -> float | None:
    """By the table; None for a device that is not in it."""
    return next((peaks[kind] for part, peaks in GPU_PEAKS if part in name), None)


@cache
def measured_peak(device: str, precision: str, threads: int) -> float:
    """FLOP/s of the fastest of a few products of square matrices in this process.

    Args:
        threads: of torch; another number is measured anew.
    """
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left, right = (torch.ones(_GEMM_SIZE, _GEMM_SIZE, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    for _ in range(_GEMM_RUNS):
        start = perf_counter()
        torch.mm(left, right)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(perf_counter() - start)
    return 2 * _GEMM_SIZE**3 / min(seconds)


class MemoryMeter:
    """Memory of this worker, looked at now and then."""

    def __init__(self, device: str) -> None:
        self._is_gpu = device.startswith("cuda")
        self._last_time = -MEMORY_SECONDS
        self._last: int | None = None

    def bytes(self) -> int | None:
        """On a GPU the highest that torch had allocated; on a CPU what the process holds now, with its part of what it
        shares (PSS). None where the system does not say."""
        if self._is_gpu:
            return int(torch.cuda.max_memory_allocated())
        now = perf_counter()
        if now - self._last_time >= MEMORY_SECONDS:
            self._last_time, self._last = now, _proportional_bytes()
        return self._last


def _proportional_bytes(path: Path = Path("/proc/self/smaps_rollup")) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)
