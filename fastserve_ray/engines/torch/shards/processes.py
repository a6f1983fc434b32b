"""The other ranks as processes of this machine, for use without Ray and for tests."""

from __future__ import annotations

import multiprocessing
import tempfile
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import EngineError, FastServeError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from fastserve_ray.spec.serve import EngineSpec

LOOPBACK = "127.0.0.1"
EXPLAIN_S = 2.0
"""How long to wait for a process that has closed its connections to be over."""
CLOSE_S = 5.0
"""How long a process that was asked to end may take before it is killed."""
_JOINING = "joining"


class ShardProcesses:
    """Spawns ranks 1 to ``num_shards`` - 1, which load their share and follow rank 0; see `runner.Peers`.

    Args:
        start_s: how long a process may take to import what it needs.

    Raises:
        EngineError: a process ended at once, or took longer than ``start_s``.
    """

    def __init__(
        self, folder: str | Path, spec: EngineSpec, num_shards: int, *, timeout_s: float, start_s: float
    ) -> None:
        self._meeting_place = tempfile.TemporaryDirectory(prefix="fastserve-shards-")
        self.init_method = (Path(self._meeting_place.name) / "store").as_uri()
        self._shards: list[_Shard] = []
        for rank in range(1, num_shards):
            self._shards.append(_Shard(rank, (rank, num_shards, self.init_method, str(folder), spec, timeout_s)))
        try:
            self._wait_for_all(start_s)
        except BaseException:
            self.kill()
            raise

    @property
    def pids(self) -> list[int]:
        """Of ranks 1 and up."""
        return [shard.process.pid for shard in self._shards if shard.process.pid is not None]

    def explain(self) -> str | None:
        if not self._shards or not wait([shard.process.sentinel for shard in self._shards], timeout=EXPLAIN_S):
            return None
        return "; ".join(shard.epitaph() for shard in self._shards if not shard.process.is_alive())

    def error(self) -> FastServeError | None:
        """What a rank that has ended raised, if one did."""
        self.explain()
        return next((shard.error for shard in self._shards if shard.error is not None), None)

    def close(self) -> None:
        deadline = monotonic() + CLOSE_S
        for shard in self._shards:
            shard.process.join(max(0.0, deadline - monotonic()))
        self.kill()

    def kill(self) -> None:
        for shard in self._shards:
            shard.end()
        self._meeting_place.cleanup()

    def _wait_for_all(self, start_s: float) -> None:
        """Until every process has its imports behind it, so that rank 0 does not wait for one that never comes."""
        deadline = monotonic() + start_s
        for shard in self._shards:
            wait([shard.connection, shard.process.sentinel], timeout=max(0.0, deadline - monotonic()))
            if shard.last_words() != _JOINING:
                shard.process.join(EXPLAIN_S)
                raise EngineError(
                    f"a shard of the model could not start: {shard.epitaph()}",
                    hint="a script that opens a sharded engine must do so under if __name__ == '__main__'",
                )


class _Shard:
    """One process and what it says."""

    def __init__(self, rank: int, arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe(duplex=False)
        self.rank = rank
        self.error: FastServeError | None = None
        self.process: SpawnProcess = context.Process(
            target=_host, args=(there, *arguments), name=f"fastserve-shard-{rank}", daemon=True
        )
        self.process.start()
        there.close()

    def last_words(self) -> Any:
        """The newest that the process said and nobody has read."""
        said = None
        try:
            while self.connection.poll():
                said = self.connection.recv()
        except (EOFError, OSError):
            pass  # it has ended, and all is read
        if isinstance(said, FastServeError):
            self.error = said
        return said

    def epitaph(self) -> str:
        self.last_words()
        is_alive = self.process.is_alive()
        state = "does not answer" if is_alive else f"ended with exit code {self.process.exitcode}"
        return f"shard {self.rank} (pid {self.process.pid}) {state}" + (f": {self.error.what}" if self.error else "")

    def end(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.connection.close()


def _host(connection: Connection, rank: int, num_shards: int, *arguments: Any) -> None:
    """The life of such a process."""
    try:
        from fastserve_ray.engines.torch.shards.factory import Seat, run_shard

        init_method, folder, spec, timeout_s = arguments
        connection.send(_JOINING)
        seat = Seat.on_one_machine(rank, num_shards)
        run_shard(rank, num_shards, init_method, folder, spec, seat=seat, timeout_s=timeout_s)
    except FastServeError as error:
        _tell(connection, error)
        raise SystemExit(1) from None
    except Exception as error:
        _tell(connection, EngineError(f"{type(error).__name__}: {error}"))
        raise


def _tell(connection: Connection, error: FastServeError) -> None:
    with suppress(BrokenPipeError):  # rank 0's process has ended; nobody listens
        connection.send(error)
