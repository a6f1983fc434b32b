"""The plan's memory estimate against what torch's allocator hands out in real training steps."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from benchmarks.plan_memory import CASES, Case, estimate, measure

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
)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in CHOSEN], ids=lambda case: case.name)
def test_the_estimate_is_within_15_percent_of_the_peak(case: Case, tmp_path: Path) -> None:
    gc.collect()
    peak = measure(case, tmp_path)["peak"]
    assert estimate(case) == pytest.approx(peak, rel=ALLOWED)
