"""A sharded replica as clients see it, and what they see when a process behind it is killed.

Before each kill a shard is stopped, so that the requests in flight cannot end before it.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.errors import PlacementError, SpecError
from fastserve_ray.serve.app import deployment_name
from fastserve_ray.serve.client import is_ready
from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.serve import ServeSpec, ShardsSpec
from fastserve_ray.spec.train import WorkerResources
from tests.integration.faults import BACK_S, PROMPT, Clients, Seen, num_in_replica, processes, the_process
from tests.integration.served import generate
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    import psutil

pytestmark = [pytest.mark.slow, pytest.mark.alone]

WHOLE, LONG = 40, 400
"""Tokens. A stream of the second length goes on for a second and more after its first token."""
SHARD, REPLICA, INGRESS = "ShardHost", f"ServeReplica:tiny:{deployment_name('tiny')}", "ServeReplica:tiny:ingress"
SPEC = ServeSpec(port=0, shards=ShardsSpec(tensor=2))


@pytest.fixture(scope="module")
def app(ray_cluster: str, generator_folder: Path) -> Iterator[ServedApp]:
    app = deploy(generator_folder, "text-generation", "tiny", SPEC)
    yield app
    app.shutdown()
    wait_for(lambda: not processes(SHARD), 30, "no shard outlives its application")


@pytest.fixture(scope="module")
def watcher(app: ServedApp) -> Future[None]:
    """``app.wait``, which ends when the application has failed."""
    return ThreadPoolExecutor(1).submit(app.wait)


@pytest.fixture(scope="module")
def expected(generator_folder: Path) -> tuple[str, str]:
    """Of one process: a whole answer, and what a stream says."""
    return generate(generator_folder, PROMPT, WHOLE)[0], generate(generator_folder, PROMPT, LONG)[0]


@pytest.fixture
def clients(app: ServedApp) -> Clients:
    return Clients(app.url, LONG)


class InFlight:
    """One stream that has begun; then a shard is stopped, and two whole requests and a stream wait in the replica."""

    def __init__(self, clients: Clients) -> None:
        wait_for(lambda: num_in_replica("tiny") == 0, 60, "nothing is left of earlier requests")
        self.shard, self.replica = the_process(SHARD), the_process(REPLICA)
        self.begun = clients.begun_stream()
        self.shard.suspend()
        self.whole = [clients.whole(WHOLE) for _ in range(2)]
        _, self.waiting = clients.stream()
        wait_for(lambda: num_in_replica("tiny") == len(self.all), 30, "all requests are in the replica")
        assert not any(future.done() for future in self.all)

    @property
    def all(self) -> list[Future[Seen]]:
        return [self.begun, self.waiting, *self.whole]

    def ended(self) -> None:
        """Wait for all; the longest has to wait for another replica."""
        _, left = wait(self.all, timeout=120)
        assert not left, "a request hangs"


def kill(process: psutil.Process) -> float:
    process.kill()
    return time.monotonic()


def check_service(app: ServedApp, clients: Clients, expected: tuple[str, str], since: float) -> None:
    """Full service within its time: every process is there, and answers are right."""
    left = BACK_S - (time.monotonic() - since)
    wait_for(lambda: is_ready(f"{app.url}/ready") and len(processes(SHARD)) == 1, left, "service")
    check_whole(clients.whole(WHOLE).result(), expected)
    assert time.monotonic() - since < BACK_S


def check_whole(seen: Seen, expected: tuple[str, str]) -> None:
    assert (seen.status, seen.error, seen.is_closed_early) == (200, None, False)
    assert seen.text == expected[0]


def check_complete(seen: Seen, expected: tuple[str, str]) -> None:
    assert (seen.status, seen.error, seen.is_done) == (200, None, True)
    assert seen.text == expected[1]


def check_cut(seen: Seen, expected: tuple[str, str]) -> None:
    """What came is right and came once, and its end is an error event."""
    assert not seen.is_done
    assert seen.text
    assert expected[1].startswith(seen.text)
    assert len(seen.text) < len(expected[1])
    assert seen.error is not None
    assert seen.error["code"] == "unavailable"


def check_replaced(
    flight: InFlight,
    app: ServedApp,
    clients: Clients,
    expected: tuple[str, str],
    since: float,
) -> None:
    """What was not begun is answered by the new replica; a stream that was ends with an error event."""
    flight.ended()
    check_cut(flight.begun.result(), expected)
    check_complete(flight.waiting.result(), expected)
    for future in flight.whole:
        check_whole(future.result(), expected)
    check_service(app, clients, expected, since)
    wait_for(
        lambda: not (flight.replica.is_running() or flight.shard.is_running()), 30, "nothing is left of the old replica"
    )


def test_two_shards_write_what_one_writes(clients: Clients, expected: tuple[str, str]) -> None:
    assert len(processes(SHARD)) == 1
    check_whole(clients.whole(WHOLE).result(), expected)
    check_complete(clients.stream()[1].result(), expected)


def test_shards_without_a_place_are_refused_at_once(app: ServedApp, generator_folder: Path) -> None:
    def refused(**changes: object) -> str:
        spec = SPEC.model_copy(update={"route_prefix": "/second", **changes})
        with pytest.raises((PlacementError, SpecError)) as refusal:
            deploy(generator_folder, "text-generation", "second", spec)
        return str(refusal.value)

    each = WorkerResources(CPU=5)
    assert "got: 1 x 2 bundles of 5 CPU, 0 GPU" in refused(resources_per_replica=each)
    assert "allowed: what the nodes have: 8 CPU, 0 GPU (room for 1)" in refused(resources_per_replica=each)
    assert "no node can hold a shard" in refused(resources_per_replica=WorkerResources(CPU=1, GPU=1))
    assert "does not divide num_attention_heads (4)" in refused(shards=ShardsSpec(tensor=3))


@pytest.mark.usefixtures("watcher")
@pytest.mark.parametrize("victim", [SHARD, REPLICA])
def test_a_lost_process_of_a_replica(victim: str, app: ServedApp, clients: Clients, expected: tuple[str, str]) -> None:
    """Its whole gang is started anew."""
    flight = InFlight(clients)
    since = kill(the_process(victim))
    check_replaced(flight, app, clients, expected, since)


@pytest.mark.usefixtures("watcher")
def test_a_shard_that_hangs(app: ServedApp, clients: Clients, expected: tuple[str, str]) -> None:
    """Its process is there and does nothing. It counts as lost, and from then on it is as if it had been killed."""
    flight = InFlight(clients)
    wait_for(lambda: not flight.shard.is_running(), 2 * SPEC.shards.hang_timeout_s, "the shard counts as lost")
    since = time.monotonic()
    check_replaced(flight, app, clients, expected, since)


@pytest.mark.usefixtures("watcher")
def test_a_lost_controller_is_not_noticed(app: ServedApp, clients: Clients, expected: tuple[str, str]) -> None:
    flight = InFlight(clients)
    old = the_process("ServeController")
    since = kill(old)
    flight.shard.resume()
    flight.ended()
    check_complete(flight.begun.result(), expected)
    check_complete(flight.waiting.result(), expected)
    for future in flight.whole:
        check_whole(future.result(), expected)
    wait_for(lambda: any(found.pid != old.pid for found in processes("ServeController")), BACK_S, "a new controller")
    check_service(app, clients, expected, since)


@pytest.mark.usefixtures("watcher")
def test_a_lost_ingress(app: ServedApp, clients: Clients, expected: tuple[str, str]) -> None:
    """It held all requests: those not begun get a 503, the stream an error event. The replica, where they cannot go on
    as long as a shard is stopped, gives them up, too."""
    flight = InFlight(clients)
    since = kill(the_process(INGRESS))
    flight.ended()
    check_cut(flight.begun.result(), expected)
    for future in (*flight.whole, flight.waiting):
        seen = future.result()
        assert (seen.status, seen.text) == (503, "")
        assert seen.error is not None
        assert seen.error["code"] == "unavailable"
    wait_for(lambda: num_in_replica("tiny") == 0, 15, "nobody waits for them, so they end in the replica")
    flight.shard.resume()
    check_service(app, clients, expected, since)


def test_a_lost_proxy(app: ServedApp, clients: Clients, expected: tuple[str, str], watcher: Future[None]) -> None:
    """It held the connections: every client sees its own closed before the answer's end."""
    flight = InFlight(clients)
    since = kill(the_process("ProxyActor"))
    flight.ended()
    for future in flight.all:
        seen = future.result()
        assert (seen.is_closed_early, seen.is_done, seen.error) == (True, False, None)
        assert expected[1].startswith(seen.text)
    flight.shard.resume()
    check_service(app, clients, expected, since)
    assert not watcher.done(), "the application counts as failed"
