"""Several token streams of one request, merged into frames.

A frame costs processor time on its way through Serve: in the replica, the ingress and the proxy. So a replica with many
streams sends fewer, larger frames: the time between two frames of a request grows with the streams in flight, and all
frames together cost a bounded part of one core, until a reader would see the text come in jerks. The first frame of a
request and its last are never held back, nor any before the first one with text: that is what a reader waits for.

The others are sent at the same moments, on a beat of the clock that all requests share: each process on the way then
wakes once for all of them, and a frame costs a third of what it costs alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from time import perf_counter
from typing import TYPE_CHECKING

from fastserve_ray.engines.protocol import TokenLogprob
from fastserve_ray.serve.calls import Frame, Piece, PlaceLogprobs
from fastserve_ray.serve.failures import RequestFailed, timed_out

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fastserve_ray.engines.protocol import FinishReason, GenerateDelta

Spell = Callable[[Sequence[TokenLogprob]], Iterable[PlaceLogprobs]]

FRAME_COST_S = 0.0006
"""Of processor time, in all processes that a frame passes with others; the client's is a tenth of it."""
FRAMES_SHARE = 0.04
"""What the frames of one replica may cost, as a share of one core."""
MAX_HOLD_S = 0.25
"""Between two frames of a request, however many streams there are."""
HEARTBEAT_S = 3.0
"""A request of which there is nothing to tell gets an empty frame so often: who waits for it knows by its silence that
the replica is lost, where no connection tells."""
SHORTEST_BEAT_S = MAX_HOLD_S / 2**4
"""Less is not worth waiting for: steps of an engine take as long."""


def _no_logprobs(logprobs: Sequence[TokenLogprob]) -> Iterable[PlaceLogprobs]:
    """Of streams that ask for none."""
    assert not logprobs, "spell is missing"
    return ()


class StreamFailed(Exception):  # noqa: N818 - an event
    """A choice ended with "error" or "cancelled"."""

    def __init__(self, finish_reason: FinishReason, error: str | None) -> None:
        super().__init__(finish_reason, error)
        self.finish_reason = finish_reason
        self.error = error


class _Collector:
    """Reads all streams at once and keeps what has not been sent."""

    def __init__(
        self,
        streams: Sequence[AsyncGenerator[GenerateDelta, None]],
        num_prompt_tokens: int,
        num_choices: int,
        spell: Spell,
    ) -> None:
        self._start = perf_counter()
        self._first_token_s: float | None = None
        self._last_token_s: float | None = None
        self._queue_s: float | None = None
        self._is_first_frame = True
        self._pending: dict[int, list[GenerateDelta]] = {}
        self._num_prompt_tokens = num_prompt_tokens
        self._num_choices = num_choices
        self._spell = spell
        self._num_completion_tokens = [0] * (len(streams) * num_choices)
        self._failure: BaseException | None = None
        self.arrived = asyncio.Event()
        self.tasks = [asyncio.create_task(self._read(index, stream)) for index, stream in enumerate(streams)]
        self.num_open = len(streams)

    async def _read(self, index: int, stream: AsyncGenerator[GenerateDelta, None]) -> None:
        try:
            async for delta in stream:
                if delta.finish_reason in ("error", "cancelled"):
                    raise StreamFailed(delta.finish_reason, delta.error)
                self._take(index * self._num_choices + delta.index, delta)
        except Exception as error:  # noqa: BLE001 - raised again where the frames are read
            self._failure = error
        finally:
            await stream.aclose()
            self.num_open -= 1
            self.arrived.set()

    def _take(self, index: int, delta: GenerateDelta) -> None:
        self._last_token_s = perf_counter() - self._start
        if self._first_token_s is None:
            self._first_token_s = self._last_token_s
            self._queue_s = delta.queue_s
        self._pending.setdefault(index, []).append(delta)
        self._num_completion_tokens[index] = delta.num_completion_tokens
        self.arrived.set()

    async def has_arrived(self, timeout_s: float | None) -> bool:
        """Wait until there is something to send, or to raise; False when the time is up before."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.arrived.wait()
        except TimeoutError:
            return False
        return True

    def heartbeat(self) -> Frame:
        return Frame((), self._num_prompt_tokens, sum(self._num_completion_tokens))

    def frame(self) -> Frame | None:
        """All that has arrived since the last frame, or None.

        Raises:
            StreamFailed, FastServeError: a stream has failed.
        """
        self.arrived.clear()
        if self._failure is not None:
            raise self._failure
        pending, self._pending = self._pending, {}
        if not pending:
            return None
        is_first, self._is_first_frame = self._is_first_frame, False
        return Frame(
            tuple(self._piece(index, deltas) for index, deltas in sorted(pending.items())),
            self._num_prompt_tokens,
            sum(self._num_completion_tokens),
            self._first_token_s if is_first else None,
            self._queue_s if is_first else None,
            self._last_token_s,
        )

    def _piece(self, index: int, deltas: Sequence[GenerateDelta]) -> Piece:
        text = "".join(delta.text for delta in deltas)
        logprobs = tuple(place for delta in deltas for place in self._spell(delta.logprobs))
        return Piece(index, text, deltas[-1].finish_reason, logprobs)


async def merge_streams(
    streams: Sequence[AsyncGenerator[GenerateDelta, None]],
    *,
    num_prompt_tokens: int,
    num_streams_in_flight: Callable[[], int],
    num_choices: int = 1,
    spell: Spell = _no_logprobs,
    heartbeat_s: float | None = None,
) -> AsyncGenerator[Frame, None]:
    """Frames of ``streams`` until all have ended. Leaving early closes the streams, which cancels their requests.

    Args:
        num_choices: completions in each stream.
        spell: tokens of log probabilities to their texts.
        heartbeat_s: when nothing came for so long, there is a frame without pieces.

    Raises:
        StreamFailed, FastServeError: a stream failed; the others are closed.
    """
    collector = _Collector(streams, num_prompt_tokens, num_choices, spell)
    has_text = False
    try:
        while collector.num_open:
            if not await collector.has_arrived(heartbeat_s):
                yield collector.heartbeat()
                continue
            frame = collector.frame()
            if frame is None:
                continue
            yield frame
            has_text = has_text or any(piece.text for piece in frame.pieces)
            if has_text:
                await _hold(collector, hold_seconds(num_streams_in_flight()))
        frame = collector.frame()
        if frame is not None:
            yield frame
    finally:
        for task in collector.tasks:
            task.cancel()
        await asyncio.gather(*collector.tasks, return_exceptions=True)


async def until(
    frames: AsyncGenerator[Frame, None], arrived_at: float, timeout_s: float | None
) -> AsyncGenerator[Frame, None]:
    """``frames`` up to the request's deadline.

    Args:
        arrived_at: on the event loop's clock.

    Raises:
        RequestFailed: 504, the time is up; the frames are closed.
    """
    deadline = None if timeout_s is None else arrived_at + timeout_s
    async with aclosing(frames):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    frame = await anext(frames, None)
            except TimeoutError as error:
                raise RequestFailed(timed_out(timeout_s or 0.0)) from error
            if frame is None:
                return
            yield frame


def hold_seconds(num_streams: int) -> float:
    """Between two frames of a request: `MAX_HOLD_S` or a half, a quarter... of it, so that each beat is one of the
    quicker ones too. One stream alone is not held back: there is a core for its frames."""
    if num_streams == 1:
        return 0.0
    needed = num_streams * FRAME_COST_S / FRAMES_SHARE
    hold = SHORTEST_BEAT_S
    while hold < min(needed, MAX_HOLD_S):
        hold *= 2
    return hold


def to_next_beat(now: float, hold: float) -> float:
    """Seconds from ``now`` until the clock is at a multiple of ``hold``, which is not 0."""
    return hold - now % hold


async def _hold(collector: _Collector, seconds: float) -> None:
    """Wait for the next beat, or until every stream has ended."""
    open_tasks = [task for task in collector.tasks if not task.done()]
    if open_tasks and seconds:
        rest = to_next_beat(asyncio.get_running_loop().time(), seconds)
        await asyncio.wait(open_tasks, timeout=rest, return_when=asyncio.ALL_COMPLETED)


def merge_frames(frames: Sequence[Frame]) -> Frame:
    """All frames of a request as one."""
    pieces: dict[int, list[Piece]] = {}
    for frame in frames:
        for piece in frame.pieces:
            pieces.setdefault(piece.index, []).append(piece)
    return Frame(
        tuple(
            Piece(
                index,
                "".join(piece.text for piece in parts),
                parts[-1].finish_reason,
                tuple(place for piece in parts for place in piece.logprobs),
            )
            for index, parts in sorted(pieces.items())
        ),
        frames[-1].num_prompt_tokens,
        frames[-1].num_completion_tokens,
        frames[0].first_token_s,
        frames[0].queue_s,
        frames[-1].last_token_s,
    )
