"""What is told to DeepSpeed about offloading, and what this machine cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastserve_ray.errors import TrainingError
from fastserve_ray.spec import ParallelSpec
from fastserve_ray.training.strategies.offload import IN_MEMORY, file_system, offload_settings, refuse_unavailable


def test_only_stage_three_offloads_weights() -> None:
    assert offload_settings(ParallelSpec(workers=2, zero=3), on_gpu=True) == {}
    second = offload_settings(ParallelSpec(workers=2, zero=2, offload="cpu"), on_gpu=True)
    third = offload_settings(ParallelSpec(workers=2, zero=3, offload="cpu"), on_gpu=True)
    assert (set(second), set(third)) == ({"offload_optimizer"}, {"offload_optimizer", "offload_param"})


def test_states_for_a_disk_leave_a_gpu_and_are_where_they_are_on_a_cpu() -> None:
    """Where they are mapped from files."""
    disk = ParallelSpec(workers=2, zero=3, offload="nvme", offload_folder="/mnt/disk")
    assert offload_settings(disk, on_gpu=False) == {}
    assert offload_settings(disk, on_gpu=True) == offload_settings(
        ParallelSpec(workers=2, zero=3, offload="cpu"), on_gpu=True
    )


def to_disk(folder: Path) -> ParallelSpec:
    return ParallelSpec(workers=2, zero=3, offload="nvme", offload_folder=str(folder))


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(TrainingError, match="cannot be kept in this folder") as caught:
        refuse_unavailable(to_disk(Path("/proc/none")))
    assert caught.value.key == "train.parallel.offload_folder"


def test_a_folder_in_host_memory_is_refused() -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or file_system(memory) not in IN_MEMORY:
        pytest.skip("this machine has no tmpfs on /dev/shm")
    with pytest.raises(TrainingError, match="lie in host memory"):
        refuse_unavailable(to_disk(memory))


def test_a_folder_on_a_disk_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    if file_system(tmp_path) in IN_MEMORY:
        pytest.skip("temporary files of this machine lie in memory")
    refuse_unavailable(to_disk(folder))
    assert folder.is_dir()
    refuse_unavailable(ParallelSpec(workers=2, zero=3, offload="cpu"))
