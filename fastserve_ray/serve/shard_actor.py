"""The shard server as Ray Serve wants the class of a deployment's actor: it sends this module by value."""

from __future__ import annotations

import ray

from fastserve_ray.weights.server import ShardServer


@ray.remote
class ShardActor(ShardServer):
    """See `ShardServer`. Serve's controller starts it with the deployment, starts another when it is lost, and ends it
    when no replica of its version is left."""
