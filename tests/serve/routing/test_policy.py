"""The policy, alone and with a clock of the test's."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.serve.routing.hint import RoutingHint
from fastserve_ray.serve.routing.policy import REPORT_LIFETIME_S, RESERVATION_LIFETIME_S, PrefixLoad, Report

if TYPE_CHECKING:
    from collections.abc import Sequence

FOUR = ("a", "b", "c", "d")


class Driver:
    """Sends requests as the router does."""

    def __init__(self, policy: PrefixLoad, replicas: Sequence[str] = FOUR) -> None:
        self.policy, self.replicas = policy, list(replicas)
        self.now = 0.0
        self._numbers = itertools.count()

    def send(self, hint: RoutingHint) -> tuple[str, str]:
        """The request's id and replica."""
        number = next(self._numbers)
        best = self.policy.choose(number, f"r{number}", hint, self.replicas, self.now)[0].replica
        self.policy.started(number, f"r{number}", best, hint, self.now)
        return f"r{number}", best

    def load(self, replica: str) -> float:
        return self.policy.load(replica, self.now)


def hint(*keys: int, prompt: float = 160.0, completion: float = 40.0) -> RoutingHint:
    return RoutingHint(keys=keys, num_prompt_tokens=prompt, num_completion_tokens=completion)


def test_a_known_prefix_is_followed() -> None:
    drive = Driver(PrefixLoad("me"))
    first, home = drive.send(hint(1, 2, 3, 4))
    drive.policy.ended(first, home)
    for number in range(5):
        request, replica = drive.send(hint(1, 2, 3, 10 + number))
        assert replica == home
        drive.policy.ended(request, replica)
    assert [drive.load(replica) for replica in FOUR] == [0.0] * 4


def test_a_cached_prompt_is_less_work() -> None:
    drive = Driver(PrefixLoad("me"), ["only"])
    drive.send(hint(1, 2, 3, 4))
    assert drive.load("only") == 200.0
    drive.send(hint(1, 2, 3, 4))
    assert drive.load("only") == 240.0, "only its completion is left to do"
    drive.send(hint(1, 2, 7, 8))
    assert drive.load("only") == 360.0


def test_a_queue_longer_than_the_prefix_is_left() -> None:
    drive = Driver(PrefixLoad("me", slack_tokens=10**6, prefix_weight=1.0))
    _, home = drive.send(hint(1, 2, 3, 4, prompt=160))
    replicas = [drive.send(hint(1, 2, 3, 4, prompt=160))[1] for _ in range(3)]
    assert replicas[0] != home, "200 tokens before it there, 160 uncached ones elsewhere"


def test_uncached_tokens_weigh_more_than_those_that_wait() -> None:
    drive = Driver(PrefixLoad("me", slack_tokens=10**6, prefix_weight=4.0))
    replicas = [drive.send(hint(1, 2, 3, 4, prompt=160))[1] for _ in range(4)]
    assert len(set(replicas)) == 1, "at most 280 tokens before it there, 160 uncached ones by four elsewhere"


def test_the_bound_on_skew_is_kept_whatever_is_popular() -> None:
    """Prompts that are all alike but for their end, and never finish: the worst for a bound."""
    draw = random.Random(1)
    drive = Driver(PrefixLoad("me", max_skew=1.5, slack_tokens=0.0))
    largest = 0.0
    for _ in range(400):
        request = hint(1, 2, 3, 4, 5, draw.randrange(10**9), prompt=draw.randrange(200, 2000), completion=5.0)
        largest = max(largest, request.num_tokens)
        before = {replica: drive.load(replica) for replica in FOUR}
        _, chosen = drive.send(request)
        loads = [drive.load(replica) for replica in FOUR]
        mean = sum(loads) / 4
        assert drive.load(chosen) <= 1.5 * (sum(before.values()) + request.num_tokens) / 4 or before[chosen] == min(
            before.values()
        )
    assert max(loads) <= 1.5 * mean + largest / 4


@pytest.mark.parametrize(("slack", "follows"), [(0.0, False), (1000.0, True)])
def test_below_the_slack_the_prefix_decides(slack: float, follows: bool) -> None:
    drive = Driver(PrefixLoad("me", slack_tokens=slack))
    popular = hint(*range(100), prompt=900.0, completion=10.0)
    request, home = drive.send(popular)
    drive.policy.ended(request, home)
    drive.policy.started(99, "other", home, hint(500, prompt=600.0, completion=0.0), 0.0)
    assert (drive.send(popular)[1] == home) is follows, "610 tokens there, 910 elsewhere; the bound is 566"


def test_requests_chosen_at_the_same_time_see_each_other() -> None:
    policy = PrefixLoad("me")
    chosen = {policy.choose(number, f"r{number}", hint(prompt=500.0), FOUR, 0.0)[0].replica for number in range(4)}
    assert chosen == set(FOUR)


def test_choosing_again_gives_the_first_place_back() -> None:
    policy = PrefixLoad("me")
    for _ in range(3):
        best = policy.choose(1, "r1", hint(1), FOUR, 0.0)[0].replica
    assert sum(policy.load(replica, 0.0) for replica in FOUR) == 200.0
    other = next(replica for replica in FOUR if replica != best)
    policy.started(1, "r1", other, hint(1), 0.0)
    assert [policy.load(replica, 0.0) for replica in (best, other)] == [0.0, 200.0]
    policy.ended("r1", other)
    assert sum(policy.load(replica, 0.0) for replica in FOUR) == 0.0


def test_a_call_that_was_never_accepted_frees_its_place() -> None:
    policy = PrefixLoad("me")
    best = policy.choose(1, "r1", hint(1), FOUR, 0.0)[0].replica
    policy.ended("r1", best)
    assert policy.load(best, 0.0) == 0.0
    policy.ended("r1", best)
    policy.ended("unknown", "unknown")
    assert policy.load(best, 0.0) == 0.0


@pytest.mark.parametrize("routed", ["best", "next"])
def test_a_call_whose_end_is_heard_before_its_begin_leaves_no_load(routed: str) -> None:
    drive = Driver(PrefixLoad("me"))
    ranking = drive.policy.choose(1, "r", hint(1, 2), FOUR, 0.0)
    replica = ranking[0 if routed == "best" else 1].replica
    drive.policy.ended("r", replica)
    drive.policy.started(1, "r", replica, hint(1, 2), 0.0)
    assert [drive.load(name) for name in FOUR] == [0.0] * 4
    drive.policy.choose(1, "again", hint(1, 2), FOUR, 0.0)
    drive.policy.started(1, "again", replica, hint(1, 2), 0.0)
    assert drive.load(replica) == 40.0, "the completion: its prompt is in the cache"
    drive.policy.ended("again", replica)
    assert drive.load(replica) == 0.0


def test_a_place_that_nobody_came_for_is_forgotten() -> None:
    policy = PrefixLoad("me")
    policy.choose(1, "r1", hint(1), FOUR, 0.0)
    policy.choose(2, "r2", hint(2), FOUR, 1.0)
    assert sum(policy.load(replica, 0.0) for replica in FOUR) == 400.0
    policy.choose(3, "r3", hint(3), FOUR, RESERVATION_LIFETIME_S + 0.5)
    assert sum(policy.load(replica, 0.0) for replica in FOUR) == 400.0, "the second and the third"


def test_two_calls_of_one_request_are_two() -> None:
    policy = PrefixLoad("me")
    for ticket in (1, 2):
        policy.started(ticket, "same", "a", hint(ticket), 0.0)
    policy.ended("same", "a")
    assert policy.load("a", 0.0) == 200.0
    policy.ended("same", "a")
    assert policy.load("a", 0.0) == 0.0


def test_others_work_counts_until_it_is_stale_and_own_is_not_counted_twice() -> None:
    policy = PrefixLoad("me")
    policy.started(1, "r1", "a", hint(1), 0.0)
    policy.report("a", Report({"me": 200.0, "other": 70.0}, at=1.0), now=10.0)
    assert policy.load("a", 10.0) == 270.0
    policy.report("a", Report({"me": 200.0, "other": 70.0}, at=1.0), now=14.0)
    assert policy.load("a", 10.0 + REPORT_LIFETIME_S + 0.1) == 200.0, "the same report is as old as it was"
    policy.report("a", Report({"other": 70.0}, at=2.0), now=16.0)
    assert policy.load("a", 16.0) == 270.0


def test_replicas_that_come_and_go() -> None:
    drive = Driver(PrefixLoad("me"))
    request, home = drive.send(hint(1, 2))
    drive.policy.report(home, Report({"other": 5.0}), 0.0)
    drive.replicas = [replica for replica in FOUR if replica != home]
    drive.policy.set_replicas(drive.replicas)
    assert drive.load(home) == 0.0
    drive.policy.ended(request, home)
    assert drive.load(home) == 0.0
    assert drive.send(hint(1, 2))[1] != home
    drive.replicas.append("new")
    drive.policy.set_replicas(drive.replicas)
    assert drive.policy.rank(hint(9, prompt=500.0), drive.replicas, 0.0)[-1].load == 200.0, "the one that works is last"
    assert "new" in {drive.send(hint(9 + number, prompt=500.0))[1] for number in range(3)}


def test_a_smaller_cache_forgets() -> None:
    drive = Driver(PrefixLoad("me"), ["a", "b"])
    request, home = drive.send(hint(*range(10)))
    drive.policy.ended(request, home)
    drive.policy.report(home, Report(cache_tokens=32), 0.0)
    assert drive.policy.rank(hint(*range(10)), ["a", "b"], 0.0)[0].num_cached_blocks == 2


def test_routers_that_share_nothing_agree_on_a_new_prefix() -> None:
    chosen = [
        [Driver(PrefixLoad(sender)).send(hint(key, 2))[1] for key in range(50)] for sender in ("me", "you", "they")
    ]
    assert chosen[0] == chosen[1] == chosen[2]
    assert min(chosen[0].count(replica) for replica in FOUR) >= 5, "and spread prefixes"


def test_without_keys_idle_replicas_take_turns() -> None:
    drive = Driver(PrefixLoad("me"))
    replicas = []
    for _ in range(8):
        request, replica = drive.send(hint())
        drive.policy.ended(request, replica)
        replicas.append(replica)
    assert {replica: replicas.count(replica) for replica in FOUR} == dict.fromkeys(FOUR, 2)


@pytest.mark.parametrize("num_routers", [1, 3])
def test_two_routers_that_see_each_other_late_stay_balanced(num_routers: int) -> None:
    """Requests of equal work that last for 8 ticks; reports come every 5 ticks."""
    draw = random.Random(5)
    routers = [Driver(PrefixLoad(f"s{number}", slack_tokens=0)) for number in range(num_routers)]
    running: list[tuple[int, Driver, str, str]] = []
    sums = dict.fromkeys(FOUR, 0.0)
    for tick in range(600):
        for router in routers:
            router.now = float(tick)
        for end, router, request, replica in [item for item in running if item[0] <= tick]:
            router.policy.ended(request, replica)
            running.remove((end, router, request, replica))
        if tick % 5 == 0:
            _report_all(routers, running, tick)
        router = draw.choice(routers)
        for _ in range(2):
            request, replica = router.send(hint(1, 2, draw.randrange(10**9), prompt=300.0, completion=10.0))
            running.append((tick + 8, router, request, replica))
            sums[replica] += 1
    assert max(sums.values()) <= 1.5 * sum(sums.values()) / 4


def _report_all(routers: list[Driver], running: list[tuple[int, Driver, str, str]], tick: int) -> None:
    for replica in FOUR:
        outstanding = {
            f"s{number}": 310.0 * sum(1 for _, router, _, at in running if router is routers[number] and at == replica)
            for number in range(len(routers))
        }
        for router in routers:
            router.policy.report(replica, Report(outstanding, at=float(tick)), float(tick))
