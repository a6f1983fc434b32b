"""The router in Ray Serve, over replicas that only say who they are."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray import serve

from fastserve_ray.serve.app import QUIET, router_config
from fastserve_ray.serve.calls import GenerateCall, TokenizeCall
from fastserve_ray.serve.ledger import Ledger
from fastserve_ray.serve.routing.policy import STATS_KEY
from fastserve_ray.serve.routing.work import ExpectedWork
from fastserve_ray.serve.start import ensure_serve, stop_serve
from fastserve_ray.spec.serve import RouterSpec, ServeSpec
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    async def name(self, call: GenerateCall) -> str:
        return self._name

    async def hold(self, call: GenerateCall) -> str:
        assert call.work is not None
        entry = self._ledger.begin(call.work)
        try:
            await self._tally.hold.remote(self._name)
        finally:
            self._ledger.end(entry)
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


def call(prompt: str, tokens: float = 300.0) -> GenerateCall:
    return GenerateCall("r", prompts=(prompt,), work=ExpectedWork(tokens, 10.0))


class Elsewhere:
    """Another process with a handle of the deployment, and so with a router of its own."""

    def __init__(self) -> None:
        self._handle = serve.get_deployment_handle("named", "named")

    async def name(self, call: GenerateCall | TokenizeCall) -> str:
        return str(await self._handle.name.remote(call))

    async def loads(self) -> dict[str, float]:
        """By replica, what the router here knows of."""
        policy = self._handle._router._asyncio_router.request_router._policy
        names = [str(replica.unique_id) for replica in self._handle._router._asyncio_router.request_router._replicas]
        return {name: policy.load(name, time.monotonic()) for name in names}


@pytest.fixture
def elsewhere(handle: Any) -> Iterator[Any]:
    actor: Any = ray.remote(num_cpus=0)(Elsewhere).remote()
    ray.get(actor.name.remote(TokenizeCall("x")))  # its router knows the replicas
    yield actor
    ray.kill(actor)


def held(tally: Any) -> list[int]:
    counts: dict[str, int] = ray.get(tally.held.remote())
    return sorted(counts.values())


def known(elsewhere: Any) -> dict[str, float]:
    """By replica, its load in tokens as far as it has been told there."""
    loads: dict[str, float] = ray.get(elsewhere.loads.remote())
    return loads


def answer(response: Any) -> str:
    return str(response.result(timeout_s=DEADLINE_S))


def wait_until_idle(handle: Any) -> None:
    """The end of a call reaches the router a moment after its answer the caller."""
    policy = handle._router._asyncio_router.request_router._policy
    wait_for(
        lambda: not sum(policy.load(name, time.monotonic()) for name in list(policy._served)),
        DEADLINE_S,
        "no load is left",
    )


def test_a_prefix_keeps_its_replica_and_prefixes_spread(handle: Any) -> None:
    homes = [answer(handle.name.remote(call(f"{number} {PROMPT}"))) for number in range(12)]
    assert len(set(homes)) == NUM_REPLICAS
    for number, home in enumerate(homes):
        wait_until_idle(handle)
        assert answer(handle.name.remote(call(f"{number} {PROMPT} and more {number}"))) == home


def test_a_popular_prefix_does_not_draw_everything_to_one_replica(handle: Any, tally: Any) -> None:
    calls = [handle.hold.remote(call(f"popular {PROMPT} {number}")) for number in range(12)]
    wait_for(lambda: sum(held(tally)) == 12, DEADLINE_S, "all calls are in a replica")
    assert max(held(tally)) <= 1.5 * 12 / NUM_REPLICAS
    ray.get(tally.release.remote())
    assert len({answer(done) for done in calls}) == NUM_REPLICAS


def test_full_replicas_make_requests_wait_in_the_router(handle: Any, tally: Any) -> None:
    calls = [handle.hold.remote(call(f"{number} {PROMPT}")) for number in range(8 * NUM_REPLICAS + 3)]
    wait_for(lambda: held(tally) == [8] * NUM_REPLICAS, DEADLINE_S, "every replica is full")
    ray.get(tally.release.remote())
    wait_for(lambda: sum(held(tally)) == 3, DEADLINE_S, "those that waited are in")
    ray.get(tally.release.remote())
    assert all(answer(done) for done in calls)


def test_calls_that_are_cancelled_leave_no_load(handle: Any, elsewhere: Any, tally: Any) -> None:
    """Neither here nor in a router that has heard of them."""
    calls = [handle.hold.remote(call(f"left {PROMPT}", tokens=10_000.0)) for _ in range(6)]
    wait_for(lambda: sum(held(tally)) == 6, DEADLINE_S, "all calls are in a replica")
    wait_for(lambda: sum(known(elsewhere).values()) >= 60_000, DEADLINE_S, "the reports have come")
    for left in calls:
        left.cancel()
    wait_until_idle(handle)
    wait_for(lambda: not sum(known(elsewhere).values()), DEADLINE_S, "and that they have ended")
    ray.get(tally.release.remote())


def test_a_router_elsewhere_keeps_off_what_this_process_has_loaded(handle: Any, elsewhere: Any, tally: Any) -> None:
    """It has sent nothing itself, so all that it knows is what the replica tells. By the hash of the prompt, which is
    all that counts among idle replicas, it would choose the same one as this process."""
    idle = f"shared {PROMPT}"
    wait_until_idle(handle)
    home = ray.get(elsewhere.name.remote(call(idle)))
    busy = handle.hold.remote(call(idle, tokens=50_000.0))
    wait_for(lambda: sum(held(tally)) == 1, DEADLINE_S, "the call is in a replica")
    loaded = wait_for(
        lambda: [name for name, load in known(elsewhere).items() if load >= 50_000], DEADLINE_S, "the report has come"
    )
    assert loaded == [home], "where the other process would have gone"
    assert ray.get(elsewhere.name.remote(call(idle))) != home
    ray.get(tally.release.remote())
    assert answer(busy) == home
    wait_for(lambda: not sum(known(elsewhere).values()), DEADLINE_S, "and that it has ended")
    assert ray.get(elsewhere.name.remote(call(f"{idle} again"))) == home
