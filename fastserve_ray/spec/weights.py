"""``serve.weights``: the weight store."""

from __future__ import annotations

from typing import Literal

from fastserve_ray.spec.base import PositiveInt, Section


class WeightsSpec(Section):
    """Whether the replicas of a model share one copy of its weights on each node."""

    store: Literal["auto", "on", "off"] = "auto"
    """on: the weights lie in Ray's object stores, as the engine wants them, and replicas read them in place; the store
    of each node with a replica must hold the model (cluster.object_store_memory_mb). off: each replica loads a copy of
    its own. auto: on for models of 64 MiB and more on CPUs, when several replicas may run or all may stop; where the
    store cannot be used a replica says why in its log, and loads a copy."""
    shards: PositiveInt = 1
    """Servers that own a part of the weights each, spread over the nodes."""
    stream: bool = False
    """For models larger than the memory of a replica's node: layers are fetched from the other nodes while the engine
    runs, the next one while one computes, and two of them are there at most. Every step fetches them all, so it is
    slow for small batches. Text generation on CPUs."""
