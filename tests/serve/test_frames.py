"""Several token streams, merged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.engines.protocol import FinishReason, GenerateDelta, TokenLogprob
from fastserve_ray.serve import frames as frames_module
from fastserve_ray.serve.calls import Frame, Piece, PlaceLogprobs, ScoredToken
from fastserve_ray.serve.frames import (
    FRAME_COST_S,
    FRAMES_SHARE,
    MAX_HOLD_S,
    StreamFailed,
    hold_seconds,
    merge_frames,
    merge_streams,
    to_next_beat,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

closed: list[str] = []


async def stream(
    name: str, texts: Sequence[str], *, pause: float = 0.0, finish: FinishReason = "stop"
) -> AsyncGenerator[GenerateDelta, None]:
    try:
        for number, text in enumerate(texts, start=1):
            await asyncio.sleep(pause)
            is_last = number == len(texts)
            error = "bad logits" if is_last and finish == "error" else None
            yield GenerateDelta(name, text, (number,), 3, number, finish if is_last else None, error)
    finally:
        closed.append(name)


def merged(*streams: AsyncGenerator[GenerateDelta, None], in_flight: int = 1) -> AsyncGenerator[Frame, None]:
    return merge_streams(streams, num_prompt_tokens=6, num_streams_in_flight=lambda: in_flight)


async def test_nothing_is_lost_and_counts_are_totals() -> None:
    frames = [frame async for frame in merged(stream("a", "abcdef", pause=0.004), stream("b", "xyz", pause=0.01))]
    whole = merge_frames(frames)
    assert whole.pieces == (Piece(0, "abcdef", "stop"), Piece(1, "xyz", "stop"))
    assert (whole.num_prompt_tokens, whole.num_completion_tokens) == (6, 9)
    assert frames[0].first_token_s is not None
    assert all(frame.first_token_s is None for frame in frames[1:])


async def test_choices_of_a_stream_are_told_apart_and_tokens_are_spelled() -> None:
    async def forked() -> AsyncGenerator[GenerateDelta, None]:
        for number, (index, text) in enumerate([(1, "x"), (0, "a"), (1, "y")], start=1):
            is_last = number > 1
            logprobs = (TokenLogprob(number, -number),)
            yield GenerateDelta("f", text, (number,), 3, 1, "stop" if is_last else None, index=index, logprobs=logprobs)

    def spell(logprobs: Sequence[TokenLogprob]) -> list[PlaceLogprobs]:
        return [PlaceLogprobs(ScoredToken(str(place.token_id).encode(), place.logprob)) for place in logprobs]

    streams = (forked(), forked())
    frames = merge_streams(streams, num_prompt_tokens=6, num_streams_in_flight=lambda: 1, num_choices=2, spell=spell)
    whole = merge_frames([frame async for frame in frames])
    assert [(piece.index, piece.text) for piece in whole.pieces] == [(0, "a"), (1, "xy"), (2, "a"), (3, "xy")]
    assert [place.token for place in whole.pieces[3].logprobs] == [ScoredToken(b"1", -1), ScoredToken(b"3", -3)]


async def test_a_busy_replica_sends_fewer_frames() -> None:
    alone = [frame async for frame in merged(stream("a", "a" * 40, pause=0.005))]
    busy = [frame async for frame in merged(stream("a", "a" * 40, pause=0.005), in_flight=50)]
    assert len(alone) > 20
    assert len(busy) < 8
    assert merge_frames(busy).pieces == merge_frames(alone).pieces


def test_frames_cost_a_bounded_part_of_a_core_and_are_never_late() -> None:
    assert hold_seconds(1) == 0
    for streams in (2, 3, 8, 16):
        assert FRAMES_SHARE / 2 < streams / hold_seconds(streams) * FRAME_COST_S <= FRAMES_SHARE
    assert hold_seconds(1000) == MAX_HOLD_S


def test_requests_share_their_beats() -> None:
    slow, quick = hold_seconds(1000), hold_seconds(2)
    for now in (1000.01, 1000.1, 1000.2499):
        assert now + to_next_beat(now, slow) == pytest.approx(1000.25)
    assert 1000.24 + to_next_beat(1000.24, quick) == pytest.approx(1000.25)
    assert 1000.01 + to_next_beat(1000.01, quick) < 1000.1


async def test_the_first_frame_is_not_held_back() -> None:
    frames = merged(stream("a", "ab", pause=0.01), in_flight=10_000)
    first = await asyncio.wait_for(anext(frames), 1)
    assert first.pieces == (Piece(0, "a"),)
    last = await asyncio.wait_for(anext(frames), 1)
    assert last.pieces == (Piece(0, "b", "stop"),)


async def test_a_slow_stream_gives_signs_of_life() -> None:
    slow = merge_streams(
        [stream("a", "ab", pause=0.2)], num_prompt_tokens=6, num_streams_in_flight=lambda: 1, heartbeat_s=0.02
    )
    frames = [frame async for frame in slow]
    signs, told = [frame for frame in frames if not frame.pieces], [frame for frame in frames if frame.pieces]
    assert frames[0] in signs
    assert [piece.text for frame in told for piece in frame.pieces] == ["a", "b"]
    assert told[0].first_token_s is not None
    assert all(frame.num_completion_tokens <= told[-1].num_completion_tokens for frame in signs)


async def test_nothing_is_held_back_before_there_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tokens may be no whole character; a reader waits for the one that is."""
    seen: list[str] = []
    holds: list[str] = []

    async def hold(*_: object) -> None:
        holds.append("".join(seen))

    monkeypatch.setattr(frames_module, "_hold", hold)
    async for frame in merged(stream("a", ["", "", "a", "b", "c"], pause=0.005), in_flight=50):
        seen += [piece.text for piece in frame.pieces]
    assert "".join(seen) == "abc"
    assert holds
    assert "" not in holds


@pytest.mark.parametrize("finish", ["error", "cancelled"])
async def test_a_failed_stream_fails_the_call_and_closes_the_others(finish: FinishReason) -> None:
    closed.clear()
    with pytest.raises(StreamFailed) as caught:
        async for _ in merged(stream("a", "ab", finish=finish), stream("b", "b" * 1000, pause=0.01)):
            pass
    assert caught.value.finish_reason == finish
    assert sorted(closed) == ["a", "b"]


async def test_leaving_closes_every_stream() -> None:
    closed.clear()
    frames = merged(stream("a", "a" * 1000, pause=0.01), stream("b", "b" * 1000, pause=0.01))
    await anext(frames)
    await frames.aclose()
    assert sorted(closed) == ["a", "b"]


async def test_cancelling_the_reader_closes_every_stream() -> None:
    closed.clear()

    async def read() -> None:
        async for _ in merged(stream("a", "a" * 1000, pause=0.01)):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == ["a"]
