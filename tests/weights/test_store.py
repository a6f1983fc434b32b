"""Servers and readers on one node."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import ray

from fastserve_ray.engines.table import open_engine
from fastserve_ray.engines.torch.factory import open_stored_engine, open_streamed_engine
from fastserve_ray.engines.torch.stored import ROOT, ModelBuilder
from fastserve_ray.errors import ModelError, WeightStoreError
from fastserve_ray.spec.serve import EngineSpec
from fastserve_ray.weights.capacity import check_room, store_capacity
from fastserve_ray.weights.store import WeightStore
from tests.engines.tiny import build_model
from tests.engines.torch.test_stored import save, tokens
from tests.weights.models import Layers, Missing

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.usefixtures("ray_cluster")


def is_in_object_store(tensor: torch.Tensor) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, _, rest = line.partition(" ")
        begin, end = (int(bound, 16) for bound in bounds.split("-"))
        if begin <= tensor.data_ptr() < end:
            return "plasma" in rest
    return False


def test_a_replica_reads_a_model_in_place(tmp_path: Path) -> None:
    folder = save(build_model("qwen2", tie_word_embeddings=True, num_hidden_layers=3, hidden_size=256), tmp_path)
    expected = tokens(open_engine(folder, "text-generation"))
    store = WeightStore.start(ModelBuilder(partial(str, folder), "text-generation"), 2)
    pieces = store.client().read_all()
    large = [
        tensor for piece in pieces for tensor in piece.tensors if tensor.nbytes > 2**17
    ]  # smaller ones may share an object that is sent along
    assert len(large) == 7
    assert all(is_in_object_store(tensor) for tensor in large)
    assert tokens(open_stored_engine(pieces, "text-generation", EngineSpec())) == expected
    store.close()


def test_layers_are_streamed_out_of_the_store(tmp_path: Path) -> None:
    """Also when their server is lost in the middle of it."""
    folder = save(build_model("llama", num_hidden_layers=4), tmp_path)
    expected = tokens(open_engine(folder, "text-generation"))
    store = WeightStore.start(ModelBuilder(partial(str, folder), "text-generation"), 2)
    client = store.client(timeout_s=120)
    layers = [outline for outline in client.outlines() if outline.name != ROOT]
    client.check_room_to_stream(ROOT)
    engine, stream = open_streamed_engine(
        client.read(ROOT), layers, lambda name: client.read(name).tensors, EngineSpec()
    )
    assert tokens(engine) == expected
    ray.kill(store.servers[1], no_restart=False)
    assert tokens(engine) == expected
    stream.close()
    store.close()


def test_a_server_that_is_lost_builds_its_shard_again() -> None:
    layers = Layers(num_pieces=4, numbers_each=50_000)
    store = WeightStore.start(layers, 2)
    client = store.client(timeout_s=120)
    before = client.read_all()
    ray.kill(store.servers[1], no_restart=False)
    layers.check(client.read_all())
    layers.check(store.client(timeout_s=120).read_all())
    layers.check(before)
    store.close()


def test_a_new_version_lies_beside_the_old_one() -> None:
    old, new = (Layers(num_pieces=2, numbers_each=50_000, version=version) for version in (1, 2))
    first, second = WeightStore.start(old), WeightStore.start(new)
    held = first.client().read_all()
    new.check(second.client().read_all())
    first.close()
    new.check(second.client().read_all())
    old.check(held)
    with pytest.raises(WeightStoreError, match="shard 0 of the weights does not answer"):
        first.client(timeout_s=0.5).read_all()
    second.close()


def test_memory_of_a_version_that_nobody_reads_comes_back() -> None:
    """Three versions one after another, which together are larger than the store."""
    capacity = store_capacity()
    assert capacity is not None
    for version in range(3):
        layers = Layers(num_pieces=4, numbers_each=capacity // 40, version=version)
        store = WeightStore.start(layers)
        layers.check(store.client().read_all())
        store.close()
    assert spilled_bytes() == 0


def spilled_bytes() -> int:
    from ray._private.internal_api import node_stats

    node = ray.nodes()[0]
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
    return int(stats.store_stats.spilled_bytes_total)


def test_the_reason_of_a_build_that_failed_arrives() -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        WeightStore.start(Missing()).client().read_all()


def test_weights_larger_than_the_store_are_refused() -> None:
    capacity = store_capacity()
    assert capacity is not None
    store = WeightStore.start(Layers(num_pieces=3, numbers_each=capacity // 8))
    with pytest.raises(WeightStoreError, match=r"shard 0 do not fit") as caught:
        store.client().read_all()
    assert caught.value.key == "cluster.object_store_memory_mb"
    assert f"{capacity / 2**20:.0f} MiB" in str(caught.value)
    store.close()


def test_room_is_measured_by_the_whole_model() -> None:
    capacity = store_capacity()
    assert capacity is not None
    check_room(capacity // 2, "the model's weights")
    with pytest.raises(WeightStoreError, match="the model's weights do not fit"):
        check_room(capacity, "the model's weights")
    check_room(capacity, "the model's weights", node_id="0" * 56)
