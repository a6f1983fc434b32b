"""Which device a rank takes, and what it is told where there is none."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import torch
from torch.distributed import HashStore, is_nccl_available

from fastserve_ray.engines.torch.shards.collectives import connect
from fastserve_ray.engines.torch.shards.factory import check_shards, shard_device
from fastserve_ray.errors import EngineError
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import build_model
from tests.engines.torch.shards.ranks import HOST, save

if TYPE_CHECKING:
    from pathlib import Path

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_each_rank_has_a_gpu_of_its_own() -> None:
    assert [shard_device(CUDA, place, 2) for place in range(2)] == [torch.device("cuda:0"), torch.device("cuda:1")]
    with pytest.raises(EngineError, match=r"(?s)shard 2 with 2 GPUs.*at most 2 shards here"):
        shard_device(CUDA, 2, 2)


def test_ranks_on_a_cpu_share_it() -> None:
    assert {shard_device(CPU, place, 0) for place in range(4)} == {CPU}


@pytest.mark.skipif(is_nccl_available(), reason="this build has NCCL")
def test_a_build_without_nccl_is_refused() -> None:
    store = HashStore()
    store.set_timeout(timedelta(seconds=5))
    with pytest.raises(EngineError, match="need a build of torch with NCCL"):
        connect(store, 0, 1, host=HOST, timeout_s=5, device=torch.device("cuda:0"))


def test_flex_attention_is_refused(tmp_path: Path) -> None:
    folder = save(build_model(), tmp_path / "model")
    with pytest.raises(EngineError, match="no flex attention"):
        check_shards(folder, EngineSpec(attention="flex"), 2)
