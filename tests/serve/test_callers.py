"""Calls end with the process that waits for them."""

from __future__ import annotations

import asyncio

import pytest

from fastserve_ray.serve.callers import Callers

SOON_S = 30.0


async def work(callers: Callers, caller: str | None, begun: asyncio.Event, may_end: asyncio.Event) -> str:
    with callers.waiting(caller):
        begun.set()
        await may_end.wait()
    return "answered"


def test_calls_of_an_ended_caller_are_cancelled_and_others_are_not() -> None:
    async def run() -> None:
        ended: set[str] = set()
        callers = Callers(ended.__contains__, look_s=0.01)
        may_end = asyncio.Event()
        begun = [asyncio.Event() for _ in range(4)]
        names = ["a", "a", "b", None]
        calls = [
            asyncio.create_task(work(callers, name, event, may_end)) for name, event in zip(names, begun, strict=True)
        ]
        await asyncio.gather(*(event.wait() for event in begun))
        ended.add("a")
        done, left = await asyncio.wait(calls[:2], timeout=SOON_S)
        assert not left
        assert all(call.cancelled() for call in done)
        may_end.set()
        assert await asyncio.gather(*calls[2:]) == ["answered", "answered"]

    asyncio.run(run())


def test_who_ends_later_is_watched_too() -> None:
    """The watch ends with the last call, and begins again with the next one."""

    async def run() -> None:
        ended: set[str] = set()
        callers = Callers(ended.__contains__, look_s=0.01)
        may_end = asyncio.Event()
        may_end.set()
        assert await work(callers, "a", asyncio.Event(), may_end) == "answered"
        await asyncio.sleep(0.05)
        second = asyncio.create_task(work(callers, "a", begun := asyncio.Event(), asyncio.Event()))
        await begun.wait()
        ended.add("a")
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(second, SOON_S)

    asyncio.run(run())
