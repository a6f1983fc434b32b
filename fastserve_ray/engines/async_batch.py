"""A batch engine behind asyncio: concurrent calls are put together and run in one thread.

While one batch runs, the calls that arrive form the next one, so no call waits for company (micro-batching without a
timer).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_TEXTS = 256
"""Texts that one batch takes from the queue at most, so that its first callers do not wait for all others."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Call(Generic[Item, Result]):
    items: tuple[Item, ...]
    result: asyncio.Future[list[Result]]


class MicroBatches(Generic[Item, Result]):
    """Runs calls of the coroutines of one event loop.

    Args:
        work: a batch engine's method, a result for each item. Nobody else may call the engine meanwhile.
    """

    def __init__(self, work: Callable[[Sequence[Item]], list[Result]]) -> None:
        self._do = work
        self._waiting: list[_Call[Item, Result]] = []
        self._worker: asyncio.Task[None] | None = None

    @property
    def num_waiting(self) -> int:
        """Calls that no batch has taken yet."""
        return len(self._waiting)

    async def run(self, items: Sequence[Item]) -> list[Result]:
        """Results in the order of ``items``.

        Raises:
            EngineError: the model failed on these items; other calls are not affected.
        """
        call: _Call[Item, Result] = _Call(tuple(items), asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await call.result

    async def _work(self) -> None:
        while batch := self._take_batch():
            try:
                await self._run(batch)
            except Exception as error:  # noqa: BLE001 - whatever a model raises belongs to the callers
                if len(batch) == 1:
                    _fail(batch[0], error)
                else:
                    await self._run_one_by_one(batch)

    async def _run_one_by_one(self, batch: Sequence[_Call[Item, Result]]) -> None:
        """After a failure: find out whose items it was, and answer the others."""
        for call in batch:
            try:
                await self._run([call])
            except Exception as error:  # noqa: BLE001 - as above
                _fail(call, error)

    async def _run(self, batch: Sequence[_Call[Item, Result]]) -> None:
        items = [item for call in batch for item in call.items]
        results = iter(await asyncio.to_thread(self._do, items))
        for call in batch:
            its_results = [next(results) for _ in call.items]
            if not call.result.done():
                call.result.set_result(its_results)

    def _take_batch(self) -> list[_Call[Item, Result]]:
        """The calls that wait, up to `MAX_TEXTS` texts but at least one call; calls nobody awaits are dropped."""
        batch: list[_Call[Item, Result]] = []
        num_items = 0
        while self._waiting and (not batch or num_items + len(self._waiting[0].items) <= MAX_TEXTS):
            call = self._waiting.pop(0)
            if not call.result.done():
                batch.append(call)
                num_items += len(call.items)
        return batch


def _fail(call: _Call[Item, Result], error: Exception) -> None:
    if call.result.done():
        return
    if not isinstance(error, EngineError):
        failure = EngineError(f"the model failed: {type(error).__name__}: {error}")
        failure.__cause__ = error
        error = failure
    call.result.set_exception(error)
