"""The engine behind asyncio, with a real model in the thread."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.engines.async_engine import MAX_FAILED_STEPS, AsyncEngine, merge_deltas
from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
from fastserve_ray.errors import EngineError
from tests.engines.tiny import build_engine, greedy, random_prompts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fastserve_ray.engines.protocol import GenerateDelta


@pytest.fixture
def num_threads() -> int:
    """Of this process, which other tests may have left: to be asked for before what starts some."""
    return threading.active_count()


@pytest.fixture
async def engine() -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(build_engine(max_num_seqs=4))
    engine.start()
    yield engine
    engine.stop()


async def collect(engine: AsyncEngine, request: GenerateRequest) -> GenerateDelta:
    """All deltas of a request as one."""
    whole: GenerateDelta | None = None
    async for delta in engine.generate(request):
        whole = delta if whole is None else merge_deltas(whole, delta)
    assert whole is not None
    return whole


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not happen within 5 s")


async def test_concurrent_requests_get_what_they_get_alone(engine: AsyncEngine) -> None:
    requests = [greedy(at, prompt) for at, prompt in enumerate(random_prompts(12))]
    wholes = await asyncio.gather(*(collect(engine, request) for request in requests))
    expected = generate_all(build_engine(), requests)
    assert [(whole.text, whole.token_ids, whole.finish_reason) for whole in wholes] == [
        (completion.text, completion.token_ids, completion.finish_reason) for completion in expected
    ]
    await until(lambda: engine.stats().kv_tokens_used == 0)


async def test_a_slow_consumer_gets_merged_deltas(engine: AsyncEngine) -> None:
    sizes = []
    async for delta in engine.generate(greedy("a", (5, 6), 60, ignore_eos=True)):
        sizes.append(len(delta.token_ids))
        await asyncio.sleep(0.05)
    assert sum(sizes) == 60
    assert max(sizes) > 1
    assert len(sizes) < 30


async def test_a_consumer_that_leaves_frees_its_blocks(engine: AsyncEngine) -> None:
    stream = engine.generate(greedy("a", (5, 6), 100, ignore_eos=True))
    await anext(stream)
    assert engine.stats().num_running == 1
    await stream.aclose()
    await until(lambda: engine.stats().num_running == 0)
    assert engine.stats().kv_tokens_used == 0
    assert engine.stats().num_generated_tokens < 100


async def test_a_cancelled_task_frees_its_blocks(engine: AsyncEngine) -> None:
    task = asyncio.create_task(collect(engine, greedy("a", (5, 6), 120, ignore_eos=True)))
    await until(lambda: engine.stats().num_running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: engine.stats().kv_tokens_used == 0)


async def test_refusal_reaches_the_caller_and_nobody_else(engine: AsyncEngine) -> None:
    other = asyncio.create_task(collect(engine, greedy("a", (5, 6), 60, ignore_eos=True)))
    await until(lambda: engine.stats().num_running == 1)
    with pytest.raises(EngineError, match="id is in the engine"):
        await collect(engine, greedy("a", (5,)))
    with pytest.raises(EngineError, match="prompt is empty"):
        await collect(engine, greedy("b", ()))
    assert (await other).num_completion_tokens == 60


async def test_an_error_that_nobody_foresaw_ends_its_request_alone() -> None:
    inner = build_engine()
    add = inner.add_request

    def fragile(request: GenerateRequest) -> None:
        if request.request_id == "deep":
            raise RecursionError("too deep")
        add(request)

    inner.add_request = fragile  # type: ignore[method-assign]
    engine = AsyncEngine(inner)
    engine.start()
    try:
        with pytest.raises(EngineError, match="too deep"):
            await collect(engine, greedy("deep", (5,)))
        assert engine.healthy
        assert (await collect(engine, greedy("a", (5, 6), 7, ignore_eos=True))).num_completion_tokens == 7
    finally:
        engine.stop()


async def test_several_completions_come_in_one_stream() -> None:
    engine = AsyncEngine(build_engine())
    engine.start()
    try:
        request = GenerateRequest("a", (5, 6), SamplingParams(max_tokens=9, n=3, seed=1, ignore_eos=True))
        tokens: dict[int, list[int]] = {0: [], 1: [], 2: []}
        ended = []
        async for delta in engine.generate(request):
            tokens[delta.index] += delta.token_ids
            ended += [delta.index] if delta.finish_reason else []
        assert sorted(ended) == [0, 1, 2]
        assert [len(its) for its in tokens.values()] == [9, 9, 9]
        assert engine.stats().kv_tokens_used == 0
    finally:
        engine.stop()


async def test_a_failing_step_ends_its_requests_and_the_engine_goes_on() -> None:
    inner = build_engine()
    step, failures = inner.step, iter([False, False, True])

    def flaky() -> list[GenerateDelta]:
        if next(failures, False):
            raise RuntimeError("the machine is on fire")
        return step()

    inner.step = flaky  # type: ignore[method-assign]
    engine = AsyncEngine(inner)
    engine.start()
    try:
        whole = await collect(engine, greedy("a", (5, 6), 50, ignore_eos=True))
        assert whole.finish_reason == "error"
        assert whole.error == "RuntimeError: the machine is on fire"
        assert whole.num_completion_tokens == len(whole.token_ids) == 2
        assert engine.healthy
        assert (await collect(engine, greedy("a", (5, 6), 5, ignore_eos=True))).finish_reason == "length"
        assert engine.stats().kv_tokens_used == 0
    finally:
        engine.stop()


async def test_steps_that_always_fail_are_unhealthy() -> None:
    inner = build_engine()

    def broken() -> list[GenerateDelta]:
        raise RuntimeError("broken")

    inner.step = broken  # type: ignore[method-assign]
    engine = AsyncEngine(inner)
    engine.start()
    try:
        for at in range(MAX_FAILED_STEPS):
            assert engine.healthy
            assert (await collect(engine, greedy(at, (5,)))).finish_reason == "error"
        assert not engine.healthy
    finally:
        engine.stop()


async def test_stop_ends_what_runs_and_what_comes(engine: AsyncEngine) -> None:
    task = asyncio.create_task(collect(engine, greedy("a", (5, 6), 120, ignore_eos=True)))
    await until(lambda: engine.stats().num_running == 1)
    engine.stop()
    assert (await task).finish_reason == "cancelled"
    assert not engine.healthy
    with pytest.raises(EngineError, match="not running"):
        await collect(engine, greedy("b", (5,)))
    engine.start()
    assert (await collect(engine, greedy("c", (5,), 3, ignore_eos=True))).num_completion_tokens == 3


async def test_an_idle_engine_sleeps(num_threads: int, engine: AsyncEngine) -> None:
    await collect(engine, greedy("a", (5,), 3))
    before = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - before < 0.1
    assert threading.active_count() - num_threads < 10
