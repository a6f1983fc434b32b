"""A shard server: the actor that owns one part of a model's weights, in the object store of its node.

The part is built by a task on the same node, which reads the model, prepares it and ends: so the server itself imports
no torch, and its process stays small. What the task gives lies in shared memory and belongs to the server; it lives as
long as the server or any reader's reference does, and a reader's views keep their own memory in place.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fastserve_ray.errors import FastServeError, WeightStoreError
from fastserve_ray.weights.capacity import check_room

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.models.pieces import Piece
    from fastserve_ray.weights.headers import PieceHeader


class Builder(Protocol):
    """Where the pieces of a model come from; sent to the nodes by pickle."""

    def pieces(self, shard: int, num_shards: int) -> Iterator[Piece]:
        """The pieces of one shard, each when the one before is no longer needed. All shards together are the model,
        and a shard is the same each time it is built."""
        ...


@dataclass(frozen=True)
class StoredPiece:
    """A piece in the store."""

    header: PieceHeader
    objects: tuple[Any, ...]
    """References, in the order of `PieceHeader`'s numbers."""


class ShardServer:
    """Owns one shard. Its constructor returns at once; the part is built beside it.

    Run it as a Ray actor with several threads (`SERVER_OPTIONS`), so that it answers while it waits for the build.
    """

    def __init__(self, builder: Builder, shard: int, num_shards: int) -> None:
        self._shard = shard
        self._is_built = threading.Event()
        self._part: list[StoredPiece] = []
        self._error: FastServeError | None = None
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        stream = _build.options(scheduling_strategy=here).remote(builder, shard, num_shards)
        threading.Thread(target=self._collect, args=(stream,), daemon=True).start()

    def part(self) -> list[StoredPiece]:
        """The shard's pieces; waits until they are built.

        Raises:
            FastServeError: they could not be built.
        """
        self._is_built.wait()
        if self._error is not None:
            raise self._error
        return self._part

    def node_id(self) -> str:
        """Hex id of the node that holds the shard."""
        return str(ray.get_runtime_context().get_node_id())

    def _collect(self, stream: Any) -> None:
        part: list[StoredPiece] = []
        try:
            for reference in stream:
                header: PieceHeader = ray.get(reference)
                part.append(StoredPiece(header, tuple(next(stream) for _ in range(header.num_objects))))
            self._part = part
        except RayTaskError as error:
            self._error = error.cause if isinstance(error.cause, FastServeError) else _not_built(self._shard, error)
        except (RayError, StopIteration) as error:
            self._error = _not_built(self._shard, error)
        finally:
            self._is_built.set()


SERVER_OPTIONS: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 32, "scheduling_strategy": "SPREAD"}


@ray.remote(num_cpus=0, max_calls=1, max_retries=1, num_returns="streaming")
def _build(builder: Builder, shard: int, num_shards: int) -> Iterator[Any]:
    """Of each piece its header, then its objects. Its process ends with it, and gives back what torch took."""
    from fastserve_ray.weights.objects import describe, objects_of

    num_bytes = 0
    for piece in builder.pieces(shard, num_shards):
        num_bytes += piece.num_bytes
        check_room(num_bytes, f"the weights of shard {shard}")
        header = describe(piece)
        yield header
        yield from objects_of(piece, header)


def _not_built(shard: int, error: BaseException) -> WeightStoreError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return WeightStoreError(f"shard {shard} of the weights could not be built", value=lines[-1], key="serve.weights")
