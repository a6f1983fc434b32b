"""What is told to DeepSpeed about offloading, and what this machine cannot do."""

from __future__ import annotations

import pytest

from fastserve_ray.errors import TrainingError
from fastserve_ray.spec import ParallelSpec
from fastserve_ray.training.strategies.offload import offload_settings, refuse_unavailable


def test_only_stage_three_offloads_weights() -> None:
    assert offload_settings(ParallelSpec(workers=2, zero=3)) == {}
    second = offload_settings(ParallelSpec(workers=2, zero=2, offload="cpu"))
    third = offload_settings(ParallelSpec(workers=2, zero=3, offload="cpu"))
    assert (set(second), set(third)) == ({"offload_optimizer"}, {"offload_optimizer", "offload_param"})
    disk = offload_settings(ParallelSpec(workers=2, zero=3, offload="nvme", offload_folder="/mnt/disk"))
    assert disk["offload_param"] == {"device": "nvme", "nvme_path": "/mnt/disk"}


def test_a_machine_without_the_operator_for_disks_says_what_to_install() -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    parallel = ParallelSpec(workers=2, zero=3, offload="nvme", offload_folder="/proc/none")
    word = "cannot be used" if AsyncIOBuilder().is_compatible(verbose=False) else "needs libaio"
    with pytest.raises(TrainingError, match=word):
        refuse_unavailable(parallel)
    refuse_unavailable(ParallelSpec(workers=2, zero=3, offload="cpu"))
