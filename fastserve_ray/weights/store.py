"""Shard servers without Ray Serve: for programs of one's own, benchmarks and tests.

Ray restarts a server that is lost, on another node if its own is gone, and it builds its part anew. Each version of a
model is a store of its own; readers of an old one keep its memory until their last view of it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from fastserve_ray.weights.client import WeightClient
from fastserve_ray.weights.server import SERVER_OPTIONS, ShardServer

if TYPE_CHECKING:
    from fastserve_ray.weights.server import Builder


@dataclass(frozen=True)
class WeightStore:
    """Handles of the servers of one version of one model; may be sent to other processes."""

    servers: tuple[Any, ...]

    @classmethod
    def start(cls, builder: Builder, num_shards: int = 1, **options: Any) -> WeightStore:
        """Start the servers, which begin to build; they end with `close` or with this process.

        Args:
            options: of the actors, beside or in place of `SERVER_OPTIONS`.
        """
        actor = ray.remote(ShardServer).options(**{**SERVER_OPTIONS, "max_restarts": -1, **options})
        return cls(tuple(actor.remote(builder, shard, num_shards) for shard in range(num_shards)))

    def client(self, *, timeout_s: float = 600.0) -> WeightClient:
        """A reader; see `WeightClient`."""
        return WeightClient(self.servers.__getitem__, len(self.servers), timeout_s=timeout_s)

    def close(self) -> None:
        """End the servers. What readers hold stays until they let go of it."""
        for server in self.servers:
            ray.kill(server)
