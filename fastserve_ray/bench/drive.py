"""Sends the load at its times, and watches whether the client itself keeps up."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fastserve_ray.bench.client import send
from fastserve_ray.bench.records import FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from fastserve_ray.bench.client import Request
    from fastserve_ray.bench.records import Record
    from fastserve_ray.bench.server import Server

BEAT_S = 0.01
"""How often the client looks how late its own event loop is."""
BACK_OFF_S = 1.0
"""What a user of a closed loop waits after a failure, when the server does not say."""


@dataclass
class Run:
    """What was noted, while it runs and after."""

    num_planned: int
    records: list[Record] = field(default_factory=list)
    num_sent: int = 0
    loop_lags: list[float] = field(default_factory=list)
    """Seconds that the client's event loop was late, each ``BEAT_S``: events are noted so much too late."""
    cpu_seconds: float = 0.0
    """Of the client's process, in the run."""
    seconds: float = 0.0
    was_interrupted: bool = False

    @property
    def num_open(self) -> int:
        """Requests without a whole answer."""
        return self.num_sent - len(self.records)


class Driver:
    """Runs one load.

    Args:
        path: of the endpoint.
        on_record: called with every record as it comes.
    """

    def __init__(self, server: Server, path: str, on_record: Callable[[Run, Record], None] | None = None) -> None:
        self._server, self._path = server, path
        self._on_record = on_record

    async def open_loop(self, requests: Sequence[Request], run: Run) -> Run:
        """Each request at its time, whatever has become of those before."""
        return await self._watched(self._send_all(requests, run), run)

    async def closed_loop(
        self, requests: Sequence[Request], run: Run, *, users: int, think_s: float, duration_s: float | None
    ) -> Run:
        """``users`` at a time, each asking again when answered; one that is refused waits first."""
        to_come = iter(requests)

        async def one_user(start: float) -> None:
            for request in to_come:
                if duration_s is not None and perf_counter() - start >= duration_s:
                    return
                record = await self._one(request, start, run)
                await asyncio.sleep(think_s if record.failure is None else _back_off(record))

        async def all_users() -> None:
            start = perf_counter()
            await asyncio.gather(*(one_user(start) for _ in range(users)))

        return await self._watched(all_users(), run)

    async def _send_all(self, requests: Sequence[Request], run: Run) -> None:
        start = perf_counter()
        tasks: list[asyncio.Task[Record]] = []
        try:
            for request in requests:
                await asyncio.sleep((request.at or 0.0) - (perf_counter() - start))
                tasks.append(asyncio.create_task(self._one(request, start, run)))
            await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _one(self, request: Request, start: float, run: Run) -> Record:
        run.num_sent += 1
        record = await send(self._server, self._path, request, start)
        run.records.append(record)
        if self._on_record is not None:
            self._on_record(run, record)
        if record.failure is not None and record.failure.kind is FailureKind.INTERRUPTED:
            raise asyncio.CancelledError
        return record

    async def _watched(self, load: Coroutine[Any, Any, None], run: Run) -> Run:
        """Ctrl-C ends the run with what there is."""
        begin, cpu = perf_counter(), _cpu_seconds()
        beat = asyncio.create_task(_beat(run))
        try:
            await load
        except asyncio.CancelledError:
            run.was_interrupted = True
        finally:
            beat.cancel()
            run.seconds, run.cpu_seconds = perf_counter() - begin, _cpu_seconds() - cpu
        return run


async def _beat(run: Run) -> None:
    while True:
        due = perf_counter() + BEAT_S
        await asyncio.sleep(BEAT_S)
        run.loop_lags.append(perf_counter() - due)


def _back_off(record: Record) -> float:
    assert record.failure is not None
    return BACK_OFF_S if record.failure.retry_after_s is None else record.failure.retry_after_s


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
