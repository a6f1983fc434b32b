from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from fastserve_ray.serve.quota.gate import Gate, QueueFull


async def start(gate: Gate, key: str, count: int = 1, **terms: float) -> list[asyncio.Task[None]]:
    """Tasks that want in, in this order."""
    tasks = [asyncio.create_task(gate.enter(key, **terms)) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def num_in(tasks: list[asyncio.Task[None]]) -> int:
    return sum(task.done() and not task.cancelled() and task.exception() is None for task in tasks)


async def end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(("num_floods", "inside"), [(1, 48), (2, 27), (3, 19)])
async def test_a_flood_leaves_places_free(num_floods: int, inside: int) -> None:
    """A key may hold three times what is free: of n keys that flood each has 3/(1 + 3n) of the places."""
    gate = Gate(64, 5000)
    floods = []
    for number in range(num_floods):
        floods.append(await start(gate, f"flood-{number}", 1000))
    for _ in range(300):  # requests end, and the shares become what they stay at
        key = max(gate.waiting_by_key(), key=lambda name: gate._inside[name])
        gate.leave(key)
    await settle()
    assert 64 - gate.num_inside >= 6
    assert max(abs(gate._inside[f"flood-{number}"] - inside) for number in range(num_floods)) <= 2
    assert num_in(await start(gate, "light")) == 1
    for tasks in floods:
        await end(tasks)


async def test_one_place_is_for_whoever_comes() -> None:
    gate = Gate(1, 10)
    first, second = await start(gate, "a"), await start(gate, "a")
    assert (num_in(first), num_in(second)) == (1, 0)
    gate.leave("a")
    await settle()
    assert num_in(second) == 1


async def test_keys_take_turns_by_cost_and_weight() -> None:
    gate = Gate(1, 10_000)
    keys = {"plain": (1.0, 1.0), "heavy": (2.0, 1.0), "costly": (1.0, 4.0)}
    tasks = {key: await start(gate, key, 400, weight=weight, cost=cost) for key, (weight, cost) in keys.items()}
    for _ in range(650):
        gate.leave(next(key for key in keys if gate._inside[key]))
    await settle()
    entered = {key: num_in(its) for key, its in tasks.items()}
    assert entered["heavy"] / entered["plain"] == pytest.approx(2.0, rel=0.05)
    assert entered["plain"] / entered["costly"] == pytest.approx(4.0, rel=0.1)
    for its in tasks.values():
        await end(its)


async def test_who_was_away_saves_nothing_up() -> None:
    gate = Gate(1, 1000)
    busy = await start(gate, "busy", 300)
    for _ in range(100):
        gate.leave("busy")
    late = await start(gate, "late", 100)
    for _ in range(100):
        gate.leave("busy" if gate._inside["busy"] else "late")
    await settle()
    assert 45 <= num_in(late) <= 55
    await end([*busy, *late])


async def test_the_queue_is_full_for_the_one_that_fills_it() -> None:
    gate = Gate(1, 10)
    flood = await start(gate, "flood", 11)
    light = await start(gate, "light")
    await settle()
    assert not light[0].done(), "it waits"
    assert flood[-1].done()
    with pytest.raises(QueueFull) as full:
        flood[-1].result()
    assert full.value.num_ahead == 10
    more = await start(gate, "flood")
    assert isinstance(more[0].exception(), QueueFull)
    gate.leave("flood")
    await settle()
    assert num_in(light) == 1, "it was given nothing yet, so it is next"
    await end([*flood, *light])


async def test_who_leaves_the_queue_or_is_cancelled_as_it_is_let_in_keeps_no_place() -> None:
    gate = Gate(1, 10)
    (first,), (second,), (third,) = [await start(gate, "a") for _ in range(3)]
    second.cancel()
    await settle()
    assert gate.num_waiting == 1
    gate.leave("a")
    third.cancel()  # before it has run with its place
    await settle()
    assert (gate.num_inside, gate.num_waiting) == (0, 0)
    assert first.done()


async def test_more_replicas_let_more_in() -> None:
    gate = Gate(1, 100)
    tasks = await start(gate, "a", 20)
    gate.resize(20)
    await settle()
    assert num_in(tasks) == 15
    await end(tasks)


async def test_nothing_is_left_of_a_random_history() -> None:
    draw, gate = random.Random(0), Gate(5, 8)
    inside: Counter[str] = Counter()

    async def request(key: str) -> None:
        try:
            await gate.enter(key, weight=draw.choice([0.5, 1, 3]), cost=draw.random())
        except QueueFull:
            return
        inside[key] += 1
        assert inside.total() <= 5
        try:
            await asyncio.sleep(draw.random() / 1000)
        finally:
            inside[key] -= 1
            gate.leave(key)

    tasks = []
    for _ in range(400):
        tasks.append(asyncio.create_task(request(draw.choice("abc"))))
        await asyncio.sleep(draw.random() / 3000)
        if draw.random() < 0.2:
            draw.choice(tasks).cancel()
    await asyncio.wait(tasks, timeout=10)
    assert all(task.done() for task in tasks)
    assert (gate.num_inside, gate.num_waiting, gate._given, gate._weights) == (0, 0, {}, {})
