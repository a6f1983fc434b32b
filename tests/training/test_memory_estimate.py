"""The plan's memory estimate against what torch's allocator hands out in real training steps."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from benchmarks.plan_memory import CASES, Case, estimate, measure
from benchmarks.plan_memory_spread import WIDE, spread
from benchmarks.plan_memory_spread import measure as measure_spread

if TYPE_CHECKING:
    from pathlib import Path

ALLOWED = 0.15
CHOSEN = (
    "gpt2, no dropout",
    "gpt2, large vocabulary",
    "gpt2, checkpointing",
    "llama, deep and narrow",
    "llama, accumulation",
    "llama, checkpointing",
    "bert, short",
    "bert, no dropout",
    "bert, checkpointing",
    "llama, bf16",
    "llama, LoRA",
    "gpt2, wide, LoRA",
)
BY_NAME = {case.name: case for case in (*CASES, *WIDE)}
SPREAD = [
    spread(BY_NAME[model], name)
    for name, models in {
        "tensor 2": (
            "gpt2, dropout",
            "gpt2, checkpointing",
            "gpt2, wide",
            "llama",
            "llama, checkpointing",
            "bert, no dropout",
            "bert, checkpointing",
        ),
        "ZeRO-2": ("gpt2, wide",),
        "ZeRO-3": ("llama, wide",),
        "tensor 2 x pipeline 2": ("gpt2, no dropout", "llama, wide", "bert, checkpointing"),
        "tensor 2 x ZeRO-2": ("bert, wide",),
        "tensor 2 x ZeRO-3": ("gpt2, wide", "llama, checkpointing"),
    }.items()
    for model in models
]


@pytest.mark.parametrize("case", [case for case in CASES if case.name in CHOSEN], ids=lambda case: case.name)
def test_the_estimate_is_within_15_percent_of_the_peak(case: Case, tmp_path: Path) -> None:
    gc.collect()
    peak = measure(case, tmp_path)["peak"]
    assert estimate(case) == pytest.approx(peak, rel=ALLOWED)


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    """Of all spread cases: processes start once."""
    return measure_spread(SPREAD)


@pytest.mark.slow
@pytest.mark.parametrize("case", SPREAD, ids=lambda case: case.name)
def test_the_estimate_of_a_rank_is_within_15_percent_of_the_peak(case: Case, peaks: dict[str, int]) -> None:
    assert estimate(case) == pytest.approx(peaks[case.name], rel=ALLOWED)
