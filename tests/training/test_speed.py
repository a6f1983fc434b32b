"""Tokens a second, FLOPs and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fastserve_ray.training.speed import (
    MemoryMeter,
    Speedometer,
    _proportional_bytes,
    flops_per_token,
    gpu_peak,
    measured_peak,
    peak_flops,
)
from fastserve_ray.training.world import World
from tests.training.tiny import CONFIGS

if TYPE_CHECKING:
    from pathlib import Path


def test_what_a_speedometer_says() -> None:
    speed = Speedometer(flops_per_token=100.0, peak_flops=50_000.0)
    for seconds in (3.0, 0.5, 0.5):
        speed.add(seconds, tokens=40.0)
    assert speed.metrics() == {"tokens_per_second": 30.0, "step_seconds": 0.5, "mfu": 30.0 * 100.0 / 50_000.0}
    unknown = Speedometer(100.0, 0.0)
    unknown.add(1.0, 1.0)
    assert "mfu" not in unknown.metrics()


def model_of(family: str, **changes: Any) -> Any:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**CONFIGS[family], "vocab_size": 64, **changes}))


@pytest.mark.parametrize("is_tied", [False, True])
def test_flops_are_those_of_palm(is_tied: bool) -> None:
    """2 layers of width 32 with an MLP of 64, 2 of 4 heads of keys; the output layer counts, a lookup does not."""
    model = model_of("llama", tie_word_embeddings=is_tied)
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64 + 2 * 32
    weights = 2 * layer + 32 + 64 * 32
    assert flops_per_token(model, length=16) == 6 * weights + 12 * 2 * 32 * 16
    model.requires_grad_(False)
    assert flops_per_token(model, length=16) == 4 * weights + 12 * 2 * 32 * 16


def test_flops_are_what_the_matrices_do() -> None:
    """torch's own counter, forward and backward; norms and the table of positions are not matrices."""
    from torch.utils.flop_counter import FlopCounterMode

    model = model_of("llama", num_key_value_heads=4)
    ids = torch.randint(0, 64, (2, 16))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    assert flops_per_token(model, length=16) * 32 == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_peaks_of_gpus_by_name() -> None:
    assert gpu_peak("NVIDIA H100 80GB HBM3", 1) == 989e12
    assert gpu_peak("NVIDIA H100 PCIe", 1) == 756e12
    assert gpu_peak("NVIDIA L40S", 0) == 91.6e12
    assert gpu_peak("NVIDIA L4", 0) == 30.3e12
    assert gpu_peak("a card of tomorrow", 0) is None


def test_the_peak_of_a_cpu_is_measured() -> None:
    assert measured_peak("cpu", "fp32", torch.get_num_threads()) > 1e8
    assert peak_flops(World(), "fp32") == measured_peak("cpu", "fp32", torch.get_num_threads())


def test_memory_is_the_processes_own(tmp_path: Path) -> None:
    kept = torch.ones(20_000_000)
    found = MemoryMeter("cpu").bytes()
    assert found is None or found > kept.nbytes
    (tmp_path / "smaps").write_text("Rss:   900 kB\nPss:   700 kB\n")
    assert _proportional_bytes(tmp_path / "smaps") == 700 * 1024
    assert _proportional_bytes(tmp_path / "nothing") is None
