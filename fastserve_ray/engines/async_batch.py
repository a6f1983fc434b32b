"""A batch engine behind asyncio: concurrent calls are put together and run in one thread.

While one batch runs, the calls that arrive form the next one, so no call waits for company (micro-batching without a
timer).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.protocol import BatchEngine, Prediction

MAX_TEXTS = 256
"""Texts that one batch takes from the queue at most, so that its first callers do not wait for all others."""


@dataclass(frozen=True)
class _Call:
    texts: tuple[str, ...]
    result: asyncio.Future[list[Prediction]]


class BatchAsync:
    """Runs ``engine`` for the coroutines of one event loop. Nobody else may call the engine's ``predict`` meanwhile."""

    def __init__(self, engine: BatchEngine) -> None:
        self._engine = engine
        self._waiting: list[_Call] = []
        self._worker: asyncio.Task[None] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return self._engine.labels

    @property
    def num_waiting(self) -> int:
        """Calls that no batch has taken yet."""
        return len(self._waiting)

    def count_tokens(self, text: str) -> int:
        return self._engine.count_tokens(text)

    async def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Predictions in the order of ``texts``.

        Raises:
            EngineError: the model failed on these texts; other calls are not affected.
        """
        call = _Call(tuple(texts), asyncio.get_running_loop().create_future())
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

    async def _run_one_by_one(self, batch: Sequence[_Call]) -> None:
        """After a failure: find out whose texts it was, and answer the others."""
        for call in batch:
            try:
                await self._run([call])
            except Exception as error:  # noqa: BLE001 - as above
                _fail(call, error)

    async def _run(self, batch: Sequence[_Call]) -> None:
        texts = [text for call in batch for text in call.texts]
        predictions = iter(await asyncio.to_thread(self._engine.predict, texts))
        for call in batch:
            its_predictions = [next(predictions) for _ in call.texts]
            if not call.result.done():
                call.result.set_result(its_predictions)

    def _take_batch(self) -> list[_Call]:
        """The calls that wait, up to `MAX_TEXTS` texts but at least one call; calls nobody awaits are dropped."""
        batch: list[_Call] = []
        num_texts = 0
        while self._waiting and (not batch or num_texts + len(self._waiting[0].texts) <= MAX_TEXTS):
            call = self._waiting.pop(0)
            if not call.result.done():
                batch.append(call)
                num_texts += len(call.texts)
        return batch


def _fail(call: _Call, error: Exception) -> None:
    if call.result.done():
        return
    if not isinstance(error, EngineError):
        failure = EngineError(f"the classifier failed: {type(error).__name__}: {error}")
        failure.__cause__ = error
        error = failure
    call.result.set_exception(error)
