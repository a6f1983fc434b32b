"""Replicas over the weight store.

Each deployment has shard servers of its own, one set a version of the deployment: while replicas of a new version take
over from those of the old one, both versions lie side by side in the object stores.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import FastServeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from ray.serve.config import DeploymentActorConfig

    from fastserve_ray.engines.torch.shards.collectives import Collectives
    from fastserve_ray.engines.torch.shards.factory import Seat
    from fastserve_ray.models.pieces import Piece
    from fastserve_ray.serve.source import ModelSource
    from fastserve_ray.spec.model import TaskName
    from fastserve_ray.spec.serve import EngineSpec, ServeSpec
    from fastserve_ray.weights.client import WeightClient

logger = logging.getLogger("ray.serve")

MIN_BYTES = 64 * 2**20
"""Smaller models are read as fast as servers for them would start."""


@dataclass(frozen=True)
class StoredWeights:
    """Tells a replica to read its model from the store."""

    num_shards: int
    is_required: bool
    """Whether a replica that cannot fails, instead of loading the model itself."""
    streams: bool = False
    """Whether layers come while the engine runs."""


@dataclass(frozen=True)
class ServedModelBuilder:
    """See `weights.server.Builder`. Serve's controller reads it too, so nothing here imports torch until it builds."""

    source: ModelSource
    task: TaskName
    engine: EngineSpec
    on_gpu: bool
    num_ranks: int = 1
    """Of a replica."""

    def pieces(self, shard: int, num_shards: int) -> Iterator[Piece]:
        """See `engines.torch.stored.ModelBuilder`; with several ranks, `engines.torch.shards.stored.SharesBuilder`."""
        from fastserve_ray.engines.torch.shards.stored import SharesBuilder
        from fastserve_ray.engines.torch.stored import ModelBuilder

        if self.num_ranks > 1:
            shares = SharesBuilder(self.source.fetch_folder, self.num_ranks, self.engine.dtype, on_gpu=self.on_gpu)
            yield from shares.pieces(shard, num_shards)
            return
        builder = ModelBuilder(
            self.source.fetch,
            self.task,
            self.engine.dtype,
            int8_output_layer=self.engine.int8_output_layer,
            on_gpu=self.on_gpu,
        )
        yield from builder.pieces(shard, num_shards)


def with_store(source: ModelSource, spec: ServeSpec) -> ModelSource:
    """``source`` with the store in which its replicas find the weights, or as it is."""
    wanted = spec.weights.store
    if wanted == "off" or (wanted == "auto" and not _is_worth_it(source, spec)):
        return source
    return replace(source, stored=StoredWeights(spec.weights.shards, wanted == "on", spec.weights.stream))


def _is_worth_it(source: ModelSource, spec: ServeSpec) -> bool:
    scaling = spec.autoscaling_config
    is_one_copy = scaling.max_replicas == 1 and scaling.min_replicas == 1
    if is_one_copy or spec.resources_per_replica.GPU:
        return False
    size = source.weight_bytes()
    return size is None or size >= MIN_BYTES


def weight_servers(source: ModelSource, task: TaskName, spec: ServeSpec) -> dict[str, list[DeploymentActorConfig]]:
    """Serve's option: the servers of a deployment whose replicas read from the store."""
    if source.stored is None:
        return {}
    from ray.serve.config import DeploymentActorConfig

    from fastserve_ray.serve.headless import light_actor
    from fastserve_ray.serve.shard_actor import ShardActor
    from fastserve_ray.weights.server import SERVER_OPTIONS

    on_gpu = spec.resources_per_replica.GPU > 0
    builder = ServedModelBuilder(source, task, spec.engine, on_gpu=on_gpu, num_ranks=spec.shards.tensor)
    count = source.stored.num_shards
    servers = [
        DeploymentActorConfig(
            name=shard_name(shard),
            actor_class=ShardActor,
            init_args=(builder, shard, count),
            actor_options=SERVER_OPTIONS | light_actor(),
        )
        for shard in range(count)
    ]
    return {"deployment_actors": servers}


def shard_name(shard: int) -> str:
    """Of the actor, in its deployment."""
    return f"weights-{shard}"


def open_model(source: ModelSource, task: TaskName, spec: EngineSpec, client: WeightClient | None = None) -> Any:
    """The engine of a replica, over the weight store if the source says so.

    Args:
        client: default: one for the servers of this replica's deployment.

    Raises:
        FastServeError: the model cannot be opened; the message says why.
    """
    from fastserve_ray.engines.table import open_engine

    if source.stored is not None:
        try:
            open_stored = _open_streamed if source.stored.streams else _open_stored
            return open_stored(client or _deployment_client(source.stored), task, spec)
        except FastServeError as error:
            if source.stored.is_required:
                raise
            logger.warning("this replica loads the model itself, since the weight store has failed: %s", error)
    return open_engine(source.fetch(), task, spec)


def _open_stored(client: WeightClient, task: TaskName, spec: EngineSpec) -> Any:
    from fastserve_ray.engines.torch.factory import open_stored_engine

    return open_stored_engine(client.read_all(), task, spec)


def _open_streamed(client: WeightClient, task: TaskName, spec: EngineSpec) -> Any:
    from fastserve_ray.engines.torch.factory import open_streamed_engine
    from fastserve_ray.engines.torch.stored import ROOT

    layers = [outline for outline in client.outlines() if outline.name != ROOT]
    client.check_room_to_stream(ROOT)
    engine, _ = open_streamed_engine(client.read(ROOT), layers, lambda name: client.read(name).tensors, spec)
    return engine


@dataclass(frozen=True)
class StoredShare:
    """Reads a rank's share of a sharded replica; see `engines.torch.shards.factory.ReadShare`."""

    source: ModelSource
    dtype: str
    servers: tuple[str, ...]
    """Names of the servers' actors; none: the share is read from files."""

    def __call__(self, collectives: Collectives, seat: Seat, device: torch.device) -> tuple[Any, Any, bool]:
        """
        Raises:
            FastServeError: the share cannot be read; the message says why.
        """
        from fastserve_ray.engines.torch.shards.factory import ShareOfFolder

        stored = self.source.stored
        if stored is not None:
            try:
                return self._out_of_store(collectives, seat, device)
            except FastServeError as error:
                if stored.is_required:
                    raise
                logger.warning("this shard loads its weights itself, since the weight store has failed: %s", error)
        return ShareOfFolder(self.source.fetch_folder(), self.dtype)(collectives, seat, device)

    def _out_of_store(self, collectives: Collectives, seat: Seat, device: torch.device) -> tuple[Any, Any, bool]:
        from fastserve_ray.engines.torch.shards.stored import assemble_share, belongs_to

        client = _client_of(self.servers)
        pieces = client.read_all(lambda name: belongs_to(name, collectives.rank), num_readers=seat.ranks_here)
        model, tokenizer = assemble_share(pieces, collectives, device)
        return model, tokenizer, True


def server_names(stored: StoredWeights | None) -> tuple[str, ...]:
    """Of the servers' actors, as Ray knows them in every process; for a replica to tell its shards."""
    from ray.serve._private.utils import get_deployment_actor_name
    from ray.serve.context import _get_internal_replica_context

    if stored is None:
        return ()
    me = _get_internal_replica_context()
    return tuple(
        get_deployment_actor_name(me.replica_id.deployment_id, shard_name(shard), code_version=me.code_version)
        for shard in range(stored.num_shards)
    )


def _client_of(servers: Sequence[str]) -> WeightClient:
    import ray
    from ray.serve._private.constants import SERVE_NAMESPACE

    from fastserve_ray.weights.client import WeightClient

    return WeightClient(lambda shard: ray.get_actor(servers[shard], namespace=SERVE_NAMESPACE), len(servers))


def _deployment_client(stored: StoredWeights) -> WeightClient:
    from ray import serve

    from fastserve_ray.weights.client import WeightClient

    return WeightClient(lambda shard: serve.get_deployment_actor(shard_name(shard)), stored.num_shards)
