"""A generate engine behind asyncio: one thread steps it, any number of coroutines read from it.

The thread sleeps while there is no work. A consumer that is slower than the engine gets several tokens in one delta;
one that leaves has its request cancelled before the next step.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from fastserve_ray.engines.protocol import EngineStats, FinishReason, GenerateDelta, GenerateEngine, GenerateRequest
from fastserve_ray.errors import EngineError, FastServeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 3
"""Steps that fail in a row until the engine counts as unhealthy."""


class _Stream:
    """One request's way back to its coroutine; used from the coroutine's event loop only."""

    def __init__(self, request: GenerateRequest, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.loop = loop
        self.unfinished: dict[int, int] = dict.fromkeys(range(request.sampling.n), 0)
        """By index, the tokens delivered so far of completions that go on; written by the engine's thread."""
        self._error: BaseException | None = None
        self._pending: dict[int, GenerateDelta] = {}
        """By index, in order of arrival."""
        self._arrived = asyncio.Event()

    def put(self, item: GenerateDelta | BaseException) -> None:
        """Keep ``item`` until it is read; deltas of one completion that wait are merged."""
        if isinstance(item, BaseException):
            self._error = item
        elif item.index in self._pending:
            self._pending[item.index] = merge_deltas(self._pending[item.index], item)
        else:
            self._pending[item.index] = item
        self._arrived.set()

    async def get(self) -> GenerateDelta:
        await self._arrived.wait()
        if self._error is not None:
            raise self._error
        delta = self._pending.pop(next(iter(self._pending)))
        if not self._pending:
            self._arrived.clear()
        return delta


class AsyncEngine:
    """Runs ``engine`` in a thread of its own; nobody else may touch it between `start` and `stop`."""

    def __init__(self, engine: GenerateEngine) -> None:
        self._engine = engine
        self._wake = threading.Condition()
        self._arriving: deque[_Stream] = deque()
        self._leaving: deque[_Stream] = deque()
        self._is_stopping = False
        self._streams: dict[str, _Stream] = {}
        self._num_failed_steps = 0
        self._stats = engine.stats()
        self._thread: threading.Thread | None = None

    @property
    def tokenizer(self) -> object:
        return self._engine.tokenizer

    @property
    def max_model_len(self) -> int:
        return self._engine.max_model_len

    @property
    def healthy(self) -> bool:
        """Whether the thread runs and its last steps did not all fail."""
        return self._thread is not None and self._thread.is_alive() and self._num_failed_steps < MAX_FAILED_STEPS

    def start(self) -> None:
        """Start the thread; without effect when it runs."""
        if self._thread is None:
            self._is_stopping = False
            self._thread = threading.Thread(target=self._run, name="fastserve-engine", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread after the step in progress; requests that are not finished end with "cancelled"."""
        thread, self._thread = self._thread, None
        if thread is not None:
            with self._wake:
                self._is_stopping = True
                self._wake.notify()
            thread.join()

    def stats(self) -> EngineStats:
        """As of the last step."""
        return self._stats

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateDelta, None]:
        """The request's deltas until each completion has a ``finish_reason``. Leaving early cancels the request.

        Raises:
            EngineError: the request is refused, or the engine is not started.
        """
        stream = _Stream(request, asyncio.get_running_loop())
        self._submit(stream)
        num_unfinished = request.sampling.n
        try:
            while num_unfinished:
                delta = await stream.get()
                num_unfinished -= delta.finish_reason is not None
                yield delta
        finally:
            if num_unfinished:
                self._leave(stream)

    def _submit(self, stream: _Stream) -> None:
        with self._wake:
            if self._thread is None or not self._thread.is_alive() or self._is_stopping:
                raise EngineError("the engine is not running", hint="call start() first, or restart the replica")
            self._arriving.append(stream)
            self._wake.notify()

    def _leave(self, stream: _Stream) -> None:
        with self._wake:
            self._leaving.append(stream)
            self._wake.notify()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._take_arrivals()
                self._cancel_leavers()
                if self._engine.has_work():
                    self._step()
                else:
                    self._stats = self._engine.stats()
        finally:
            self._end_all()

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when the thread shall end."""
        with self._wake:
            self._wake.wait_for(lambda: self._is_stopping or self._arriving or self._leaving or self._engine.has_work())
            return not self._is_stopping

    def _take_arrivals(self) -> None:
        while self._arriving:
            stream = self._arriving.popleft()
            try:
                self._engine.add_request(stream.request)
            except FastServeError as error:
                self._deliver([(stream, error)])
            except Exception as error:
                logger.exception("a request could not be queued; it fails alone")
                self._deliver([(stream, EngineError(f"the engine failed on this request: {error!r}"))])
            else:
                self._streams[stream.request.request_id] = stream

    def _cancel_leavers(self) -> None:
        while self._leaving:
            stream = self._leaving.popleft()
            request_id = stream.request.request_id
            if self._streams.get(request_id) is stream:
                del self._streams[request_id]
                self._engine.cancel(request_id)

    def _step(self) -> None:
        try:
            deltas = self._engine.step()
        except Exception as error:
            logger.exception("the engine's step failed; its requests end with an error")
            self._num_failed_steps += 1
            for request_id in self._streams:
                self._engine.cancel(request_id)
            self._stats = self._engine.stats()
            self._finish_all("error", f"{type(error).__name__}: {error}")
            return
        self._num_failed_steps = 0
        self._stats = self._engine.stats()
        self._deliver([(self._streams[delta.request_id], delta) for delta in deltas])
        for delta in deltas:
            unfinished = self._streams[delta.request_id].unfinished
            unfinished[delta.index] = delta.num_completion_tokens
            if delta.finish_reason is not None:
                del unfinished[delta.index]
                if not unfinished:
                    del self._streams[delta.request_id]

    def _end_all(self) -> None:
        """The thread ends: so do the requests, in the engine and for their coroutines."""
        with self._wake:
            self._is_stopping = True
            for stream in self._arriving:
                self._streams.setdefault(stream.request.request_id, stream)
            self._arriving.clear()
            self._leaving.clear()
        for request_id in self._streams:
            self._engine.cancel(request_id)
        self._stats = self._engine.stats()
        self._finish_all("cancelled", None)

    def _finish_all(self, finish_reason: FinishReason, error: str | None) -> None:
        self._deliver(
            [
                (stream, _last_delta(stream, index, finish_reason, error))
                for stream in self._streams.values()
                for index in stream.unfinished
            ]
        )
        self._streams.clear()

    def _deliver(self, items: list[tuple[_Stream, GenerateDelta | BaseException]]) -> None:
        """Hand ``items`` to their event loops, one call a loop. A loop that is closed has no reader any more."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, GenerateDelta | BaseException]]] = {}
        for stream, item in items:
            by_loop.setdefault(stream.loop, []).append((stream, item))
        for loop, its_items in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put_all, its_items)
            except RuntimeError:
                self._leaving.extend(stream for stream, _ in its_items)


def _put_all(items: Iterable[tuple[_Stream, GenerateDelta | BaseException]]) -> None:
    for stream, item in items:
        stream.put(item)


def _last_delta(stream: _Stream, index: int, finish_reason: FinishReason, error: str | None) -> GenerateDelta:
    return GenerateDelta(
        request_id=stream.request.request_id,
        text="",
        token_ids=(),
        num_prompt_tokens=len(stream.request.prompt_token_ids),
        num_completion_tokens=stream.unfinished[index],
        finish_reason=finish_reason,
        error=error,
        index=index,
    )


def merge_deltas(first: GenerateDelta, second: GenerateDelta) -> GenerateDelta:
    """Two deltas of one completion, one after the other, as one."""
    return GenerateDelta(
        request_id=second.request_id,
        text=first.text + second.text,
        token_ids=first.token_ids + second.token_ids,
        num_prompt_tokens=second.num_prompt_tokens,
        num_completion_tokens=second.num_completion_tokens,
        finish_reason=second.finish_reason,
        error=second.error,
        index=second.index,
        logprobs=first.logprobs + second.logprobs,
        queue_s=second.queue_s,
    )
