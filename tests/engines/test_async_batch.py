from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.engines.async_batch import MAX_TEXTS, MicroBatches
from fastserve_ray.engines.protocol import Prediction
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Lengths:
    """Classifies texts by their length; the text "bad" breaks it. Holds the first batch until told to go on."""

    labels = ("short", "long")

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go_on = threading.Event()

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        assert self.go_on.wait(5)
        self.batches.append(len(texts))
        if "bad" in texts:
            raise RuntimeError("cannot read this")
        return [Prediction(self.labels[len(text) > 3], int(len(text) > 3), (0.5, 0.5)) for text in texts]

    def count_tokens(self, text: str) -> int:
        return len(text)


async def test_calls_that_wait_become_one_batch() -> None:
    engine = Lengths()
    front = MicroBatches(engine.predict)
    first = asyncio.create_task(front.run(["a"]))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(front.run(["a" * size, "b"])) for size in range(1, 9)]
    await asyncio.sleep(0.05)
    assert front.num_waiting == 8
    engine.go_on.set()
    assert [prediction.label for prediction in await first] == ["short"]
    answers = await asyncio.gather(*others)
    assert [answer[0].label for answer in answers] == ["short"] * 3 + ["long"] * 5
    assert engine.batches == [1, 16]


async def test_a_failure_hits_its_caller_alone() -> None:
    engine = Lengths()
    engine.go_on.set()
    front = MicroBatches(engine.predict)
    results = await asyncio.gather(front.run(["fine"]), front.run(["bad"]), front.run(["x"]), return_exceptions=True)
    assert isinstance(results[1], EngineError)
    assert "cannot read this" in str(results[1])
    assert [answer[0].label for answer in (results[0], results[2]) if isinstance(answer, list)] == ["long", "short"]
    assert (await front.run(["more"]))[0].label == "long"


async def test_a_caller_that_leaves_is_dropped() -> None:
    engine = Lengths()
    front = MicroBatches(engine.predict)
    first = asyncio.create_task(front.run(["a"]))
    leaving = asyncio.create_task(front.run(["b"]))
    await asyncio.sleep(0.05)
    leaving.cancel()
    await asyncio.sleep(0)
    engine.go_on.set()
    await first
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await front.run(["c"])
    assert sum(engine.batches) <= 3


async def test_batches_are_bounded() -> None:
    engine = Lengths()
    engine.go_on.set()
    front = MicroBatches(engine.predict)
    calls = [["a"] * (MAX_TEXTS // 2), ["b"] * (MAX_TEXTS // 2), ["c"] * (2 * MAX_TEXTS), ["d"]]
    answers = await asyncio.gather(*(front.run(call) for call in calls))
    assert [len(answer) for answer in answers] == [len(call) for call in calls]
    assert engine.batches == [MAX_TEXTS, 2 * MAX_TEXTS, 1]
