"""The shards of a replica: actors beside it in its placement group, each with a part of the model.

The replica is rank 0. Serve reserves one bundle for each rank before it starts the replica, so its shards have their
places. They stand and fall together: a shard that ends takes the others and the replica's process with it, and Serve,
which sees the replica's end, starts another with a group of its own. Where the replica ends first, Ray ends its actors.
A shard that hangs is ended like one that is lost: its process is asked every second whether it runs, and a layer waits
for another rank no longer than that may take.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fastserve_ray.errors import EngineError, FastServeError
from fastserve_ray.serve.stored import StoredShare, server_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastserve_ray.engines.torch.engine import TorchEngine
    from fastserve_ray.engines.torch.shards.factory import Seat
    from fastserve_ray.serve.source import ModelSource
    from fastserve_ray.spec.serve import EngineSpec, ShardsSpec

logger = logging.getLogger("ray.serve")

LOOPBACK = "127.0.0.1"
BEAT_S = 1.0
"""Between two looks whether the shards' processes answer."""
EXPLAIN_S = 2.0
"""How long to wait for a shard that has closed its connections to be over."""
CLOSE_S = 5.0
"""How long a shard that was asked to end may take before it is killed."""
LAST_WORDS_S = 2.0
"""How long the replica's process stays, at most, to tell its requests that they have failed."""


class ShardHost:
    """The process of one rank but the first. It has two threads: one runs the model."""

    def __init__(self, hang_timeout_s: float) -> None:
        self._hang_timeout_s = hang_timeout_s

    def beat(self) -> None:
        """Answers as long as the process runs, whatever its other thread does."""

    def where(self) -> tuple[str, str]:
        """Id and address of its node."""
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def run(self, rank: int, seats: Sequence[Seat], init_method: str, share: StoredShare, spec: EngineSpec) -> None:
        """Follow rank 0 until it closes its engine."""
        from fastserve_ray.engines.torch.shards.factory import run_shard

        run_shard(rank, len(seats), init_method, share, spec, seat=seats[rank], timeout_s=self._hang_timeout_s)


def open_over_shards(
    source: ModelSource, spec: EngineSpec, shards: ShardsSpec, on_lost: Callable[[], None]
) -> tuple[TorchEngine, ShardGang]:
    """The engine of this replica, which is rank 0, over the bundles of its placement group.

    Args:
        on_lost: called once, in a thread, when a shard has ended while the engine was open.

    Raises:
        EngineError: the model cannot be cut, or a shard did not start.
        ModelError, ArtifactError: a rank cannot read the model.
    """
    from fastserve_ray.engines.table import check_model
    from fastserve_ray.engines.torch.shards.factory import Seat, check_shards, open_leading_engine, open_meeting

    num_shards = shards.tensor
    if source.stored is None:  # else the servers read the model, and refuse what cannot be cut
        folder = source.fetch_folder()
        check_model(folder, "text-generation")
        check_shards(folder, spec, num_shards)
    share = StoredShare(source, spec.dtype, server_names(source.stored))
    gang = ShardGang(shards)
    seats = [Seat(host, ranks_here=ranks_here) for host, ranks_here in gang.places()]
    store, init_method = open_meeting(seats[0].host, num_shards)
    gang.run(seats, init_method, share, spec)
    try:
        engine = open_leading_engine(
            num_shards, store, share, spec, peers=gang, seat=seats[0], timeout_s=shards.hang_timeout_s
        )
    except BaseException as error:
        cause = gang.error()
        gang.kill()
        if isinstance(error, EngineError) and cause is not None:
            raise cause from error  # rank 0 only sees that a rank is gone; the rank itself says why
        raise
    gang.watch(on_lost)
    return engine, gang


class ShardGang:
    """Ranks 1 and up as actors; see `engines.torch.shards.runner.Peers`."""

    def __init__(self, shards: ShardsSpec) -> None:
        group = get_current_placement_group()
        assert group is not None, "a sharded replica is deployed with a bundle for each shard"
        assert len(group.bundle_specs) == shards.tensor
        self._hang_timeout_s = shards.hang_timeout_s
        self._is_closing = False
        self._is_broken = threading.Event()
        self._hosts: list[Any] = []
        self._runs: list[Any] = []
        for rank in range(1, shards.tensor):
            bundle = group.bundle_specs[rank]
            actor = ray.remote(ShardHost).options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                max_concurrency=2,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            )
            self._hosts.append(actor.remote(shards.hang_timeout_s))

    @property
    def is_broken(self) -> bool:
        """Whether the model cannot be run any more."""
        return self._is_broken.is_set()

    def places(self) -> list[tuple[str, int]]:
        """Of each rank, an address that the others reach, and how many ranks its node has; waits for the actors."""
        here = (ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address())
        found = [here, *ray.get([host.where.remote() for host in self._hosts])]
        nodes = [node for node, _ in found]
        if len(set(nodes)) == 1:
            return [(LOOPBACK, len(nodes))] * len(nodes)
        return [(address, nodes.count(node)) for node, address in found]

    def run(self, seats: Sequence[Seat], init_method: str, share: StoredShare, spec: EngineSpec) -> None:
        """Send all ranks to the meeting. One that fails on the way breaks the gang, so that nobody waits for it."""
        self._runs = [
            host.run.remote(rank, seats, init_method, share, spec) for rank, host in enumerate(self._hosts, start=1)
        ]
        threading.Thread(target=self._break_with_first, name="fastserve-shards", daemon=True).start()

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Call ``on_lost`` in a thread once the gang is broken, which from now on a shard that does not answer breaks
        too."""

        def wait() -> None:
            self._is_broken.wait()
            on_lost()

        threading.Thread(target=wait, name="fastserve-shards-watch", daemon=True).start()
        threading.Thread(target=self._break_with_silent, name="fastserve-shards-beat", daemon=True).start()

    def explain(self) -> str | None:
        ended, _ = ray.wait(self._runs, num_returns=1, timeout=EXPLAIN_S)
        return "; ".join(self._epitaph(run) for run in self._runs if run in ended) or None

    def error(self) -> FastServeError | None:
        """What a shard that has ended raised, if that is known."""
        ray.wait(self._runs, num_returns=1, timeout=EXPLAIN_S)
        ended, _ = ray.wait(self._runs, num_returns=len(self._runs), timeout=0)
        causes = [_cause(run) for run in ended]
        ours = [cause for cause in causes if isinstance(cause, FastServeError)]
        if ours:
            return next((cause for cause in ours if not isinstance(cause, EngineError)), ours[0])
        return EngineError(f"a shard of the model could not start: {self.explain()}") if ended else None

    def close(self) -> None:
        self._is_closing = True
        ray.wait(self._runs, num_returns=len(self._runs), timeout=CLOSE_S)
        self.kill()

    def kill(self) -> None:
        self._is_broken.set()
        for host in self._hosts:
            with suppress(RayError):
                ray.kill(host, no_restart=True)

    def _break_with_first(self) -> None:
        ray.wait(self._runs, num_returns=1)
        if self._is_closing:
            return
        logger.error("a shard of the model has ended: %s", self.explain())
        self.kill()

    def _break_with_silent(self) -> None:
        while not self._is_broken.wait(BEAT_S):
            beats = [host.beat.remote() for host in self._hosts]
            _, silent = ray.wait(beats, num_returns=len(beats), timeout=self._hang_timeout_s)
            if silent and not self._is_closing and not self.is_broken:
                ranks = ", ".join(str(beats.index(beat) + 1) for beat in silent)
                logger.error("shard %s of the model has not answered for %g s", ranks, self._hang_timeout_s)
                self.kill()

    def _epitaph(self, run: Any) -> str:
        cause = _cause(run)
        said = "its process ended" if cause is None or isinstance(cause, RayActorError) else str(cause)
        return f"shard {self._runs.index(run) + 1}: {said}"


def leave(num_calls: Callable[[], int]) -> None:
    """End this replica's process, which Serve notices at its next health check, and every router at its next call.

    Args:
        num_calls: how many requests have not been told yet that they have failed.
    """
    deadline = monotonic() + LAST_WORDS_S
    while num_calls() and monotonic() < deadline:
        sleep(0.05)
    logger.error("the replica ends with its shards; another takes its place")
    logging.shutdown()
    os._exit(1)


def _cause(run: Any) -> Exception | None:
    """What an ended rank raised."""
    try:
        ray.get(run)
    except RayError as error:
        found: Exception = error
        if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
            found = error.cause
        return found
    return None
