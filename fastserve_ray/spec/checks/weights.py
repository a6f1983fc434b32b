"""Rules about ``serve.weights``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.problems import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.serve import ServeSpec

_STORE = ("serve", "weights", "store")
_SHARDS = ("serve", "weights", "shards")
_STREAM = ("serve", "weights", "stream")


def check_weights(spec: RunSpec) -> Iterator[Finding]:
    """A weight store that is there when it is shared out or streamed from, and replicas that can read from it."""
    if spec.serve is None:
        return
    weights = spec.serve.weights
    if weights.store == "off" and weights.shards > 1:
        allowed = "1, or serve.weights.store: on"
        yield Finding(_SHARDS, "there is no weight store to share out", str(weights.shards), allowed, uses=(_STORE,))
    if weights.stream:
        yield from _stream(spec, spec.serve)


def _stream(spec: RunSpec, serve: ServeSpec) -> Iterator[Finding]:
    if serve.weights.store != "on":
        what = "layers are streamed from the weight store"
        yield Finding(_STREAM, what, "true", "with serve.weights.store: on", uses=(_STORE,))
    if serve.shards.tensor > 1:
        what = "a sharded replica has its layers in memory"
        yield Finding(_STREAM, what, "true", "false", uses=(("serve", "shards", "tensor"),))
    if serve.resources_per_replica.GPU or serve.engine.device == "cuda":
        uses = (("serve", "resources_per_replica", "GPU"), ("serve", "engine", "device"))
        yield Finding(_STREAM, "layers are streamed to CPUs only", "true", "false", uses=uses)
    if spec.model.task != "text-generation":
        yield Finding(_STREAM, "only layers of generation are streamed", "true", "false", uses=(("model", "task"),))
