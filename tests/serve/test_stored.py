"""When replicas read from the weight store, and what they do when it fails."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.engines.table import open_engine
from fastserve_ray.errors import ModelError
from fastserve_ray.serve.source import ModelSource
from fastserve_ray.serve.stored import MIN_BYTES, StoredWeights, open_model, weight_servers, with_store
from fastserve_ray.spec.serve import AutoscalingSpec, EngineSpec, ServeSpec, ShardsSpec
from fastserve_ray.spec.train import WorkerResources
from fastserve_ray.spec.weights import WeightsSpec
from fastserve_ray.weights.store import WeightStore
from tests.engines.tiny import build_model
from tests.engines.torch.test_stored import save, tokens
from tests.weights.models import Missing

if TYPE_CHECKING:
    from pathlib import Path

TWO = AutoscalingSpec(max_replicas=2)
ZERO = AutoscalingSpec(min_replicas=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As large as a model for which ``auto`` takes the store."""
    (tmp_path / "model.safetensors").touch()
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(MIN_BYTES)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "is_used"),
    [
        ({}, False),
        ({"autoscaling_config": TWO}, True),
        ({"autoscaling_config": ZERO}, True),
        ({"autoscaling_config": TWO, "resources_per_replica": WorkerResources(GPU=1)}, False),
        ({"autoscaling_config": TWO, "weights": WeightsSpec(store="off")}, False),
        ({"weights": WeightsSpec(store="on", shards=3)}, True),
        ({"autoscaling_config": TWO, "shards": ShardsSpec(tensor=2)}, True),
    ],
)
def test_auto_takes_the_store_where_copies_would_be_many(folder: Path, settings: dict[str, Any], is_used: bool) -> None:
    spec = ServeSpec(**settings)
    source = with_store(ModelSource(str(folder)), spec)
    assert (source.stored is not None) == is_used
    servers = weight_servers(source, "text-generation", spec).get("deployment_actors", [])
    assert len(servers) == spec.weights.shards * is_used


def test_auto_takes_no_store_for_a_small_model(tmp_path: Path) -> None:
    folder = save(build_model(), tmp_path)
    source = with_store(ModelSource(folder), ServeSpec(autoscaling_config=TWO))
    assert source.stored is None


def test_a_store_that_fails_is_passed_by_unless_it_is_required(ray_cluster: str, tmp_path: Path) -> None:
    folder = save(build_model(), tmp_path)
    expected = tokens(open_engine(folder, "text-generation"))
    client = WeightStore.start(Missing()).client()
    open_with = partial(open_model, task="text-generation", spec=EngineSpec(), client=client)
    assert tokens(open_with(ModelSource(folder, stored=StoredWeights(1, is_required=False)))) == expected
    with pytest.raises(ModelError, match="no such model folder"):
        open_with(ModelSource(folder, stored=StoredWeights(1, is_required=True)))


def test_the_settings_that_change_weights_reach_the_builder(folder: Path) -> None:
    spec = ServeSpec(engine=EngineSpec(dtype="bfloat16", int8_output_layer=True), weights=WeightsSpec(store="on"))
    source = with_store(ModelSource(str(folder)), spec)
    (server,) = weight_servers(source, "text-generation", spec)["deployment_actors"]
    builder, shard, num_shards = server.init_args
    assert (shard, num_shards) == (0, 1)
    with pytest.raises(ModelError, match="cannot load the tokenizer"):  # of an empty folder
        next(builder.pieces(0, 1))
    assert builder.engine == spec.engine
