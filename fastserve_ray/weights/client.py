"""What a replica reads weights with."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from fastserve_ray.errors import FastServeError, WeightStoreError
from fastserve_ray.weights.capacity import check_room

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastserve_ray.models.pieces import Outline, Piece
    from fastserve_ray.weights.server import StoredPiece

logger = logging.getLogger(__name__)

RETRY_S = 0.2
_T = TypeVar("_T")


class WeightClient:
    """Reads a model from its shard servers. A server that is lost is looked for again until its successor answers.

    Args:
        locate: the handle of a shard's server now; raises ValueError while there is none.
        timeout_s: how long one read waits in all, for servers that build or come back too.
    """

    def __init__(self, locate: Callable[[int], Any], num_shards: int, *, timeout_s: float = 600.0) -> None:
        self._locate = locate
        self._num_shards = num_shards
        self._timeout_s = timeout_s
        self._parts: dict[int, list[StoredPiece]] = {}
        self._homes: dict[str, int] = {}
        """Name of a piece -> its shard, which stays the same when a server is lost."""

    def read_all(self, wanted: Callable[[str], bool] = lambda name: True, *, num_readers: int = 1) -> list[Piece]:
        """The pieces of ``wanted`` names, their tensors in place in this node's object store, to which they come from
        peers if need be, all at the same time.

        Args:
            num_readers: how many processes of this node each read as much, of other pieces.

        Raises:
            WeightStoreError: the store of this node is too small, or the servers do not come back in time.
            FastServeError: the servers cannot build the model.
        """
        deadline = time.monotonic() + self._timeout_s
        with ThreadPoolExecutor(self._num_shards, thread_name_prefix="weights") as pool:
            self._find(pool, wanted, num_readers, deadline)
            shards = range(self._num_shards)
            parts = pool.map(lambda shard: self._read_shard(shard, wanted, deadline), shards)
            return [piece for part in parts for piece in part]

    def _find(
        self, pool: ThreadPoolExecutor, wanted: Callable[[str], bool], num_readers: int, deadline: float
    ) -> list[StoredPiece]:
        """Ask all servers for their parts, as soon as they are built; the pieces of ``wanted`` names.

        Raises: as `read_all`.
        """

        def part(shard: int) -> list[StoredPiece]:
            return self._retrying(partial(self._part, shard, deadline), shard, deadline)

        found = [each for part in pool.map(part, range(self._num_shards)) for each in part if wanted(each.header.name)]
        check_room(num_readers * sum(stored.header.num_bytes for stored in found), "the model's weights")
        return found

    def outlines(self) -> list[Outline]:
        """Every piece without its tensors.

        Raises: as `read_all`.
        """
        from fastserve_ray.weights.objects import outline_of

        deadline = time.monotonic() + self._timeout_s
        return [
            outline_of(stored.header)
            for shard in range(self._num_shards)
            for stored in self._retrying(partial(self._part, shard, deadline), shard, deadline)
        ]

    def read(self, name: str) -> Piece:
        """One piece, of those that `outlines` gave.

        Raises: as `read_all`.
        """
        deadline = time.monotonic() + self._timeout_s
        shard = self._shard_of(name)

        def read() -> Piece:
            wanted = [stored for stored in self._part(shard, deadline) if stored.header.name == name]
            (piece,) = self._read(wanted, deadline)
            return piece

        return self._retrying(read, shard, deadline)

    def check_room_to_stream(self, root: str) -> None:
        """Refuse to stream where not even the piece ``root`` and two others fit in this node's object store.

        Raises:
            WeightStoreError: they do not fit.
        """
        sizes = {stored.header.name: stored.header.num_bytes for part in self._parts.values() for stored in part}
        always = sizes.pop(root)
        check_room(always + sum(sorted(sizes.values())[-2:]), "two layers, the embeddings and the output layer")

    def _shard_of(self, name: str) -> int:
        if name not in self._homes:
            self._homes = {stored.header.name: shard for shard, part in self._parts.items() for stored in part}
        return self._homes[name]

    @property
    def num_bytes(self) -> int:
        """Of the tensors of the parts known so far."""
        return sum(stored.header.num_bytes for part in self._parts.values() for stored in part)

    def _read_shard(self, shard: int, wanted: Callable[[str], bool], deadline: float) -> list[Piece]:
        def read() -> list[Piece]:
            return self._read(
                [stored for stored in self._part(shard, deadline) if wanted(stored.header.name)], deadline
            )

        return self._retrying(read, shard, deadline)

    def _part(self, shard: int, deadline: float) -> list[StoredPiece]:
        if shard not in self._parts:
            self._parts[shard] = ray.get(self._locate(shard).part.remote(), timeout=_left(deadline))
        return self._parts[shard]

    def _read(self, part: Sequence[StoredPiece], deadline: float) -> list[Piece]:
        """One call for all objects, which so come side by side."""
        from fastserve_ray.models.pieces import Piece
        from fastserve_ray.weights.objects import tensors_of

        objects = iter(ray.get([each for stored in part for each in stored.objects], timeout=_left(deadline)))
        headers = [stored.header for stored in part]
        return [
            Piece(header.name, header.structure, tuple(tensors_of(header, [*islice(objects, header.num_objects)])))
            for header in headers
        ]

    def _retrying(self, call: Callable[[], _T], shard: int, deadline: float) -> _T:
        """``call`` until no server or object is lost on the way.

        Raises:
            WeightStoreError: the time is over.
        """
        has_told = False
        while True:
            try:
                return call()
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, FastServeError) else error) from error
            except (RayActorError, ObjectLostError, GetTimeoutError, ValueError) as error:
                self._parts.pop(shard, None)
                if time.monotonic() > deadline:
                    raise _gone(shard, self._timeout_s, error) from error
                if not has_told:
                    logger.warning("shard %d of the weights cannot be read yet, trying again: %r", shard, error)
                    has_told = True
            time.sleep(RETRY_S)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _gone(shard: int, timeout_s: float, error: Exception) -> WeightStoreError:
    return WeightStoreError(
        f"the server of shard {shard} of the weights does not answer",
        value=f"{type(error).__name__} after {timeout_s:g} s",
        key="serve.weights",
        hint="its node is gone or the model takes longer to load; Ray's logs of its process say which",
    )
