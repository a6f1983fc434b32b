from __future__ import annotations

import mmap
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fastserve_ray.engines.torch.mapped import MappedWeights

NUM_VALUES = 1 << 20


def resident_bytes(file: Path) -> int:
    """Of this process's mappings of ``file``."""
    total, is_file = 0, False
    with Path("/proc/self/smaps").open() as lines:
        for line in lines:
            first = line.split(" ", 1)[0]
            if not first.endswith(":"):
                is_file = line.rstrip().endswith(str(file))
            elif is_file and first == "Rss:":
                total += int(line.split()[1]) * 1024
    return total


def test_pages_of_a_mapped_weight_are_given_back(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(NUM_VALUES).float(), "b": torch.ones(NUM_VALUES)}, file)
    with safe_open(file, "pt") as opened:
        first, second = opened.get_tensor("a"), opened.get_tensor("b")
    assert float(second.sum()) == NUM_VALUES
    assert float(first[-1]) == NUM_VALUES - 1
    float(first.sum())
    before = resident_bytes(file)
    released = MappedWeights().release(first)
    if not before:  # this build of safetensors reads the file instead
        assert released == 0
        return
    assert 0 <= first.nbytes - released <= 2 * mmap.PAGESIZE
    assert before - resident_bytes(file) >= released // 2
    assert float(second.sum()) == NUM_VALUES


def test_memory_that_is_no_file_stays() -> None:
    values = torch.arange(NUM_VALUES)
    assert MappedWeights().release(values) == 0
    assert torch.equal(values, torch.arange(NUM_VALUES))


def test_without_maps_nothing_is_released(tmp_path: Path) -> None:
    assert MappedWeights(tmp_path / "none").release(torch.arange(NUM_VALUES)) == 0
