"""The replicas: each owns one engine. torch and transformers load when a replica starts, not when this is imported."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import EngineError, FastServeError
from fastserve_ray.serve import starting
from fastserve_ray.serve.autoscaling import METRIC
from fastserve_ray.serve.callers import Callers
from fastserve_ray.serve.calls import (
    Classified,
    ClassifyCall,
    DetokenizeCall,
    Frame,
    GateLoad,
    GenerateCall,
    ReplicaStatus,
    ScoredToken,
    TokenizeCall,
    Tokenized,
)
from fastserve_ray.serve.failures import Failure, RequestFailed, internal, invalid, lost, of_engine
from fastserve_ray.serve.frames import HEARTBEAT_S, StreamFailed, merge_frames, merge_streams, until
from fastserve_ray.serve.ledger import Ledger
from fastserve_ray.serve.prompts import build_requests, has_chat_template, is_short, render, tokenize
from fastserve_ray.serve.routing.policy import STATS_KEY
from fastserve_ray.serve.routing.work import ExpectedWork, WorkEstimate, rough_work
from fastserve_ray.serve.spelling import Spelling
from fastserve_ray.serve.stored import open_model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fastserve_ray.engines.protocol import BatchEngine
    from fastserve_ray.serve.shards import ShardGang
    from fastserve_ray.serve.source import ModelSource
    from fastserve_ray.spec.model import TaskName
    from fastserve_ray.spec.serve import EngineSpec, ShardsSpec

logger = logging.getLogger("ray.serve")


class GenerateReplica:
    """Completes prompts; see `calls` for what comes in and goes out."""

    def __init__(self, source: ModelSource, spec: EngineSpec, shards: ShardsSpec | None = None) -> None:
        self._start = starting.begin()
        self._num_calls = 0
        self._gang: ShardGang | None = None
        with self._start.phase("import"):
            from fastserve_ray.engines.async_engine import AsyncEngine

            import_libraries(spec)
        with self._start.phase("weights"):
            self._engine = AsyncEngine(self._open_engine(source, spec, shards))
            self._engine.start()
        self._spelling = Spelling(self._engine.tokenizer)
        self._num_streams = 0
        self._ledger = Ledger(time.time)
        self._callers = Callers()

    async def stream(self, call: GenerateCall) -> AsyncGenerator[Frame | Failure, None]:
        """Frames as they come; a failure, if any, is the last item. Closing it cancels the call."""
        if self._has_lost_shards():
            yield _lost()
            return
        frames = None
        self._num_calls += 1
        try:
            with self._callers.waiting(call.caller):
                frames = await self._frames(call, heartbeat_s=HEARTBEAT_S)
                async for frame in frames:
                    yield frame
        except (RequestFailed, StreamFailed, FastServeError) as error:
            yield self._failure(error, call)
        finally:
            self._num_calls -= 1
            if frames is not None:
                await frames.aclose()

    async def complete(self, call: GenerateCall) -> Frame | Failure:
        """Everything in one frame."""
        if self._has_lost_shards():
            return _lost()
        self._num_calls += 1
        try:
            with self._callers.waiting(call.caller):
                return merge_frames([frame async for frame in await self._frames(call)])
        except (RequestFailed, StreamFailed, FastServeError) as error:
            return self._failure(error, call)
        finally:
            self._num_calls -= 1

    async def tokenize(self, call: TokenizeCall) -> Tokenized | Failure:
        try:
            return await asyncio.to_thread(self._tokenized, call)
        except RequestFailed as error:
            return error.failure

    async def detokenize(self, call: DetokenizeCall) -> str | Failure:
        tokenizer: Any = self._engine.tokenizer
        beyond = [token for token in call.token_ids if token >= len(tokenizer)]
        if beyond:
            message = f"token {beyond[0]} is not in this model's vocabulary of {len(tokenizer)}"
            return invalid(message, param="tokens", code="invalid_value")
        return str(await asyncio.to_thread(tokenizer.decode, list(call.token_ids)))

    def _tokenized(self, call: TokenizeCall) -> Tokenized:
        tokenizer: Any = self._engine.tokenizer
        if call.messages is None:
            ids = tokenize(call.prompt, tokenizer, add_special_tokens=call.add_special_tokens)
        else:
            text = render(call.messages, tokenizer, add_generation_prompt=call.add_generation_prompt)
            ids = tokenize(text, tokenizer, add_special_tokens=False)
        texts = None
        if call.with_texts:
            texts = tuple(ScoredToken(self._spelling.data(token), 0.0).text for token in ids)
        return Tokenized(ids, texts, self._engine.max_model_len)

    async def status(self, load: GateLoad | None = None) -> ReplicaStatus:
        self._ledger.note(load)
        stats = self._engine.stats()
        return ReplicaStatus(
            replica=replica_id(),
            num_requests_running=stats.num_running,
            num_requests_waiting=stats.num_waiting,
            kv_tokens_used=stats.kv_tokens_used,
            kv_tokens_capacity=stats.kv_tokens_total,
            has_chat_template=has_chat_template(self._engine.tokenizer),
            max_model_len=self._engine.max_model_len,
            num_requests_swapped=stats.num_swapped,
            num_preemptions=stats.num_preemptions,
            prefix_query_tokens=stats.prompt_tokens,
            prefix_hit_tokens=stats.prefix_hit_tokens,
            start_seconds=self._start.phases(),
        )

    def record_routing_stats(self) -> dict[str, object]:
        """Called by Ray Serve, which passes it on to routers."""
        return {STATS_KEY: self._ledger.report(self._engine.stats().kv_tokens_total)}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve, for `autoscaling.OutstandingTokens`."""
        return {METRIC: self._ledger.num_tokens + self._ledger.num_waiting_tokens}

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces the replica when this raises."""
        if not self._engine.healthy or self._has_lost_shards():
            raise EngineError("the engine has stopped or its steps keep failing")

    def _open_engine(self, source: ModelSource, spec: EngineSpec, shards: ShardsSpec | None) -> Any:
        if shards is None:
            return open_source(source, "text-generation", spec)
        from fastserve_ray.serve.shards import leave, open_over_shards

        engine, self._gang = open_over_shards(source, spec, shards, on_lost=lambda: leave(lambda: self._num_calls))
        return engine

    def _has_lost_shards(self) -> bool:
        return self._gang is not None and self._gang.is_broken

    def _failure(self, error: RequestFailed | StreamFailed | FastServeError, call: GenerateCall) -> Failure:
        """What fails while shards are gone fails for that reason."""
        if self._has_lost_shards() and not isinstance(error, RequestFailed):
            return _lost()
        return _failure(error, call.constraint_field)

    async def _frames(self, call: GenerateCall, *, heartbeat_s: float | None = None) -> AsyncGenerator[Frame, None]:
        """Tokenize, and queue all choices in the engine.

        Raises:
            RequestFailed: the call cannot be run.
        """
        arrived_at = asyncio.get_running_loop().time()
        work = call.work or WorkEstimate().expect(call)
        self._start.arrived(work.sent_at)
        tokenizer, max_model_len = self._engine.tokenizer, self._engine.max_model_len
        if is_short(call):  # a change of threads, beside an engine that is busy, would take longer
            requests = build_requests(call, tokenizer, max_model_len)
        else:
            requests = await asyncio.to_thread(build_requests, call, tokenizer, max_model_len)
        if call.sampling.logprobs:
            await asyncio.to_thread(self._spelling.load)
        streams = [self._engine.generate(request) for request in requests]
        num_prompt_tokens = sum(len(request.prompt_token_ids) for request in requests)
        frames = self._counted(streams, num_prompt_tokens, call.sampling.n, work, heartbeat_s)
        return until(frames, arrived_at, call.timeout_s)

    async def _counted(
        self,
        streams: list[Any],
        num_prompt_tokens: int,
        num_choices: int,
        work: ExpectedWork,
        heartbeat_s: float | None,
    ) -> AsyncGenerator[Frame, None]:
        entry = self._ledger.begin(work)
        self._num_streams += len(streams) * num_choices
        frames = merge_streams(
            streams,
            num_prompt_tokens=num_prompt_tokens,
            num_choices=num_choices,
            num_streams_in_flight=lambda: self._num_streams,
            spell=self._spelling,
            heartbeat_s=heartbeat_s,
        )
        try:
            async for frame in frames:
                if frame.pieces:
                    starting.finish(self._start)
                entry.advance(frame.num_completion_tokens)
                yield frame
        finally:
            self._ledger.end(entry)
            self._num_streams -= len(streams) * num_choices
            await frames.aclose()


class ClassifyReplica:
    """Labels texts; concurrent calls share batches."""

    def __init__(self, source: ModelSource, spec: EngineSpec) -> None:
        self._start = starting.begin()
        with self._start.phase("import"):
            from fastserve_ray.engines.async_batch import MicroBatches

            import_libraries(spec)
        with self._start.phase("weights"):
            self._engine: BatchEngine = open_source(source, "text-classification", spec)
            self._batches = MicroBatches(self._engine.predict)
        self._num_calls = 0
        self._ledger = Ledger(time.time)

    async def classify(self, call: ClassifyCall) -> Classified | Failure:
        self._num_calls += 1
        entry = self._ledger.begin(rough_work(call.texts))
        try:
            predictions = await self._batches.run(call.texts)
            num_tokens = await asyncio.to_thread(lambda: sum(map(self._engine.count_tokens, call.texts)))
        except FastServeError as error:
            return _failure(error)
        finally:
            self._num_calls -= 1
            self._ledger.end(entry)
        return Classified(tuple(predictions), num_tokens, self._engine.labels)

    async def status(self, load: GateLoad | None = None) -> ReplicaStatus:
        self._ledger.note(load)
        waiting = self._batches.num_waiting
        running = max(self._num_calls - waiting, 0)
        return ReplicaStatus(replica_id(), running, waiting, start_seconds=self._start.phases())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve, for `autoscaling.OutstandingTokens`."""
        return {METRIC: self._ledger.num_tokens + self._ledger.num_waiting_tokens}


def import_libraries(spec: EngineSpec) -> None:
    """What takes seconds to import, before the model is read, so that each can be timed."""
    from fastserve_ray.engines.table import ENGINES

    ENGINES.load(spec.kind)
    importlib.import_module("transformers.models.auto.modeling_auto")
    importlib.import_module("transformers.models.auto.tokenization_auto")


def open_source(source: ModelSource, task: TaskName, spec: EngineSpec) -> Any:
    start = perf_counter()
    engine = open_model(source, task, spec)
    logger.info("%s is loaded after %.1f s", source.reference, perf_counter() - start)
    return engine


def _failure(
    error: RequestFailed | StreamFailed | FastServeError, constraint_field: str = "response_format"
) -> Failure:
    if isinstance(error, RequestFailed):
        return error.failure
    if isinstance(error, FastServeError):
        return of_engine(error, constraint_field)
    if error.finish_reason == "cancelled":
        return _lost()
    return internal(error.error or "the engine failed on this request")


def _lost() -> Failure:
    """What this replica says when it cannot answer any more."""
    import ray

    return lost(ray.get_runtime_context().get_actor_id())


def replica_id() -> str:
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)
