"""The router in Ray Serve, over replicas that only say who they are."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray import serve

from fastserve_ray.serve.app import QUIET, router_config
from fastserve_ray.serve.calls import GenerateCall, TokenizeCall
from fastserve_ray.serve.ledger import Ledger
from fastserve_ray.serve.routing.policy import STATS_KEY
from fastserve_ray.serve.routing.work import SENDER, ExpectedWork
from fastserve_ray.serve.start import ensure_serve, stop_serve
from fastserve_ray.spec.serve import RouterSpec, ServeSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NUM_REPLICAS = 3
DEADLINE_S = 60.0
PROMPT = "the cat sat on the mat and " * 40


class Tally:
    """Where replicas hold their calls: it can be asked while they are full, as they cannot."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._released = asyncio.Event()

    async def hold(self, replica: str) -> None:
        """Returns after `release`."""
        self._counts[replica] = self._counts.get(replica, 0) + 1
        await self._released.wait()

    async def held(self) -> dict[str, int]:
        """By replica, calls since the last `release`."""
        return self._counts

    async def release(self) -> None:
        self._released.set()
        self._released, self._counts = asyncio.Event(), {}


class Named:
    """A replica without a model."""

    def __init__(self, tally: Any) -> None:
        self._tally = tally
        self._name = str(serve.get_replica_context().replica_id.unique_id)
        self._ledger = Ledger(time.time)

    async def name(self, call: GenerateCall | TokenizeCall) -> str:
        if isinstance(call, GenerateCall) and call.work is not None:
            self._ledger.end(self._ledger.begin(call.work))
        return self._name

    async def hold(self, call: GenerateCall) -> str:
        assert call.work is not None
        entry = self._ledger.begin(call.work)
        try:
            await self._tally.hold.remote(self._name)
        finally:
            self._ledger.end(entry)
        return self._name

    async def die_soon(self, call: GenerateCall) -> str:
        """After this call has ended: one that does not end is sent to the next replica, which would die, too."""
        asyncio.get_running_loop().call_later(0.5, os._exit, 1)
        return self._name

    def record_routing_stats(self) -> dict[str, object]:
        return {STATS_KEY: self._ledger.report(1_000_000)}


@pytest.fixture(scope="module")
def tally(ray_cluster: str) -> Iterator[Any]:
    actor: Any = ray.remote(num_cpus=0, max_concurrency=100)(Tally).remote()
    yield actor
    ray.kill(actor)


@pytest.fixture(scope="module")
def handle(tally: Any) -> Iterator[Any]:
    """Of a deployment with `NUM_REPLICAS` replicas behind the router of the spec."""
    _, owns_serve = ensure_serve(ServeSpec(port=0))
    deployment = serve.deployment(
        Named,
        name="named",
        num_replicas=NUM_REPLICAS,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=8,
        request_router_config=router_config(RouterSpec(slack_tokens=0, stats_period_s=0.1)),
        logging_config=QUIET,
    )
    yield serve.run(deployment.bind(tally), name="named", route_prefix=None)
    if owns_serve:
        stop_serve()
    else:
        serve.delete("named")


def call(prompt: str, tokens: float = 300.0, sender: str | None = None) -> GenerateCall:
    work = ExpectedWork(tokens, 10.0) if sender is None else ExpectedWork(tokens, 10.0, sender)
    return GenerateCall("r", prompts=(prompt,), work=work)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def held(tally: Any) -> list[int]:
    counts: dict[str, int] = ray.get(tally.held.remote())
    return sorted(counts.values())


def answer(response: Any) -> str:
    return str(response.result(timeout_s=DEADLINE_S))


def wait_until_idle(handle: Any) -> None:
    """The end of a call reaches the router a moment after its answer the caller."""
    policy = handle._router._asyncio_router.request_router._policy
    wait_for(lambda: not sum(policy.load(name, time.monotonic()) for name in list(policy._served)), "no load is left")


def test_a_prefix_keeps_its_replica_and_prefixes_spread(handle: Any) -> None:
    homes = [answer(handle.name.remote(call(f"{number} {PROMPT}"))) for number in range(12)]
    assert len(set(homes)) == NUM_REPLICAS
    for number, home in enumerate(homes):
        wait_until_idle(handle)
        assert answer(handle.name.remote(call(f"{number} {PROMPT} and more {number}"))) == home


def test_a_popular_prefix_does_not_draw_everything_to_one_replica(handle: Any, tally: Any) -> None:
    calls = [handle.hold.remote(call(f"popular {PROMPT} {number}")) for number in range(12)]
    wait_for(lambda: sum(held(tally)) == 12, "all calls are in a replica")
    assert max(held(tally)) <= 1.5 * 12 / NUM_REPLICAS
    ray.get(tally.release.remote())
    assert len({answer(done) for done in calls}) == NUM_REPLICAS


def test_full_replicas_make_requests_wait_in_the_router(handle: Any, tally: Any) -> None:
    calls = [handle.hold.remote(call(f"{number} {PROMPT}")) for number in range(8 * NUM_REPLICAS + 3)]
    wait_for(lambda: held(tally) == [8] * NUM_REPLICAS, "every replica is full")
    ray.get(tally.release.remote())
    wait_for(lambda: sum(held(tally)) == 3, "those that waited are in")
    ray.get(tally.release.remote())
    assert all(answer(done) for done in calls)


def test_calls_that_are_cancelled_leave_no_load(handle: Any, tally: Any) -> None:
    calls = [handle.hold.remote(call(f"left {PROMPT}", tokens=10_000.0)) for _ in range(6)]
    wait_for(lambda: sum(held(tally)) == 6, "all calls are in a replica")
    for left in calls:
        left.cancel()
    wait_until_idle(handle)
    ray.get(tally.release.remote())


class Sender:
    """Another process with a handle."""

    def __init__(self) -> None:
        self._handle: Any = serve.get_app_handle("named")

    def name(self, request: GenerateCall) -> str:
        return str(answer(self._handle.name.remote(request)))

    def reported(self, sender: str) -> dict[str, float]:
        """By replica, what it has told this process's router of ``sender``."""
        replicas = self._handle._router._asyncio_router.request_router.curr_replicas.values()
        stats = {one.replica_id.unique_id: (one.routing_stats or {}).get(STATS_KEY, {}) for one in replicas}
        return {name: found.get("outstanding", {}).get(sender, 0.0) for name, found in stats.items()}


def test_a_router_sees_what_another_process_has_sent(handle: Any, tally: Any) -> None:
    """The driver fills one replica; a process that knows the prompt to be cached there goes elsewhere meanwhile."""
    sender: Any = ray.remote(num_cpus=0)(Sender).remote()
    wait_until_idle(handle)
    home = ray.get(sender.name.remote(call(f"shared {PROMPT}", sender="other")))
    busy = handle.hold.remote(call(f"shared {PROMPT}", tokens=5_000.0))
    wait_for(lambda: sum(held(tally)) == 1, "the call is in a replica")
    wait_for(lambda: sum(ray.get(sender.reported.remote(SENDER)).values()) == 5_010.0, "the report is here")
    assert max(ray.get(sender.reported.remote(SENDER)).items(), key=lambda item: item[1])[0] == home
    again = call(f"shared {PROMPT} again", sender="other")
    wait_for(lambda: ray.get(sender.name.remote(again)) != home, "it goes elsewhere")
    ray.get(tally.release.remote())
    assert answer(busy) == home, "the driver's router chose the same replica, by the prompt alone"
    wait_for(
        lambda: sum(ray.get(sender.reported.remote(SENDER)).values()) == 0, "the report says that it is free again"
    )
    ray.kill(sender)


def test_calls_that_generate_nothing_are_routed_too(handle: Any) -> None:
    first = answer(handle.name.remote(TokenizeCall("x")))
    wait_until_idle(handle)
    calls = [handle.name.remote(TokenizeCall("x")) for _ in range(20)]
    assert first
    assert all(answer(done) for done in calls)


def test_a_replica_that_dies_is_replaced_and_its_prefix_moves(handle: Any) -> None:
    wait_until_idle(handle)
    doomed = answer(handle.die_soon.remote(call(f"doomed {PROMPT}")))
    wait_for(lambda: name_of(handle, f"doomed {PROMPT}") not in (None, doomed), "another replica answers")
    wait_until_idle(handle)
    other = name_of(handle, f"doomed {PROMPT}")
    wait_until_idle(handle)
    assert name_of(handle, f"doomed {PROMPT}") == other
    wait_for(lambda: num_running() == NUM_REPLICAS, "Serve has replaced it")
    assert doomed not in handle._router._asyncio_router.request_router._policy._served


def name_of(handle: Any, prompt: str) -> str | None:
    """None when the replica dies under the call."""
    try:
        return answer(handle.name.remote(call(prompt)))
    except ray.exceptions.RayActorError:
        return None


def num_running() -> int:
    states: dict[str, int] = serve.status().applications["named"].deployments["named"].replica_states
    return states.get("RUNNING", 0)
