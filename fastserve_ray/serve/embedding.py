"""Embeddings: the replica that makes them, and the answer that carries them."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING

import numpy as np

from fastserve_ray.errors import FastServeError
from fastserve_ray.serve import starting
from fastserve_ray.serve.autoscaling import METRIC
from fastserve_ray.serve.calls import Embedded, ReplicaStatus
from fastserve_ray.serve.failures import RequestFailed, context_length_exceeded, invalid, of_engine
from fastserve_ray.serve.ledger import Ledger
from fastserve_ray.serve.routing.work import rough_work
from fastserve_ray.serve.wire.base import Usage
from fastserve_ray.serve.wire.embeddings import EmbeddingAnswer, EmbeddingItem

if TYPE_CHECKING:
    from fastserve_ray.engines.protocol import EmbeddingEngine
    from fastserve_ray.serve.calls import EmbedCall, GateLoad
    from fastserve_ray.serve.failures import Failure
    from fastserve_ray.serve.source import ModelSource
    from fastserve_ray.spec.serve import EngineSpec

NUMBER = np.dtype("<f4")


class EmbedReplica:
    """Turns texts into vectors; concurrent calls share batches."""

    def __init__(self, source: ModelSource, spec: EngineSpec) -> None:
        from fastserve_ray.serve.replica import import_libraries, open_source

        self._start = starting.begin()
        with self._start.phase("import"):
            from fastserve_ray.engines.async_batch import MicroBatches

            import_libraries(spec)
        with self._start.phase("weights"):
            self._engine: EmbeddingEngine = open_source(source, "text-embedding", spec)
            self._batches = MicroBatches(self._engine.embed)
        self._num_calls = 0
        self._ledger = Ledger(time.time)

    async def embed(self, call: EmbedCall) -> Embedded | Failure:
        self._num_calls += 1
        entry = self._ledger.begin(rough_work(call.texts))
        try:
            rows = await asyncio.to_thread(read_rows, call, self._engine)
            vectors = await self._batches.run(rows)
        except RequestFailed as error:
            return error.failure
        except FastServeError as error:
            return of_engine(error)
        finally:
            self._num_calls -= 1
            self._ledger.end(entry)
        kept = tuple(shortened(vector.data, call.dimensions) for vector in vectors)
        return Embedded(kept, sum(map(len, rows)))

    async def status(self, load: GateLoad | None = None) -> ReplicaStatus:
        from fastserve_ray.serve.replica import replica_id

        self._ledger.note(load)
        waiting = self._batches.num_waiting
        return ReplicaStatus(
            replica_id(),
            max(self._num_calls - waiting, 0),
            waiting,
            max_model_len=self._engine.max_length,
            start_seconds=self._start.phases(),
        )

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve, for `autoscaling.OutstandingTokens`."""
        return {METRIC: self._ledger.num_tokens + self._ledger.num_waiting_tokens}


def read_rows(call: EmbedCall, engine: EmbeddingEngine) -> list[tuple[int, ...]]:
    """The call's texts as tokens.

    Raises:
        RequestFailed: a text is longer than the model reads, a token is none of its, or the model has not so
            many dimensions.
    """
    if call.dimensions is not None and call.dimensions > engine.dimensions:
        message = f"this model's vectors have {engine.dimensions} dimensions (got {call.dimensions})"
        raise RequestFailed(invalid(message, param="dimensions", code="invalid_value"))
    rows = engine.encode(call.texts, cuts=call.cuts)
    for row in rows:
        if len(row) > engine.max_length:
            raise RequestFailed(context_length_exceeded(len(row), None, engine.max_length, "input"))
        if max(row) >= engine.vocabulary:
            message = f"token {max(row)} is not in this model's vocabulary of {engine.vocabulary}"
            raise RequestFailed(invalid(message, param="input", code="invalid_value"))
    return rows


def shortened(data: bytes, dimensions: int | None) -> bytes:
    """The first ``dimensions`` numbers of a vector, made to length 1; None: the vector as it is."""
    if dimensions is None or dimensions * NUMBER.itemsize == len(data):
        return data
    kept = np.frombuffer(data, NUMBER)[:dimensions]
    length = float(np.linalg.norm(kept))
    return bytes((kept / length if length else kept).astype(NUMBER).tobytes())


def embedding_answer(model: str, result: Embedded, encoding: str | None) -> EmbeddingAnswer:
    items = [
        EmbeddingItem(index=index, embedding=_encoded(vector, encoding)) for index, vector in enumerate(result.vectors)
    ]
    return EmbeddingAnswer(model=model, data=items, usage=Usage.of(result.num_tokens))


def _encoded(vector: bytes, encoding: str | None) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector).decode()
    numbers: list[float] = np.frombuffer(vector, NUMBER).tolist()
    return numbers
