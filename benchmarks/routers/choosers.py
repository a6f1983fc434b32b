"""Routers without Serve: ours is the policy's own code, Ray's prefix router its own prefix tree."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol

from fastserve_ray.serve.routing.policy import PrefixLoad, Report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastserve_ray.serve.routing.hint import RoutingHint

FIRST_CHARACTER = 0x10000
"""Beyond the surrogates: a block of the trace is one character for Ray's tree."""


class Chooser(Protocol):
    """One router in front of all replicas."""

    def choose(
        self, number: int, blocks: Sequence[int], hint: RoutingHint, queues: Mapping[str, int], now: float
    ) -> str:
        """The replica of request ``number``; ``queues``: the requests in each one."""
        ...

    def ended(self, number: int, replica: str) -> None: ...


class PowerOfTwo:
    """Ray Serve's default: of two replicas at random the one with fewer requests."""

    def __init__(self) -> None:
        self._draw = random.Random(0)

    def choose(
        self, number: int, blocks: Sequence[int], hint: RoutingHint, queues: Mapping[str, int], now: float
    ) -> str:
        return min(self._draw.sample(list(queues), 2), key=lambda name: queues[name])

    def ended(self, number: int, replica: str) -> None:
        return


class RayPrefixAffinity:
    """`PrefixCacheAffinityRouter` of Ray 2.60 over its own tree: the longest match where it is a tenth of the prompt,
    else the replica with the smallest tree; power of two when queues differ by more than ``imbalanced_threshold``."""

    def __init__(self, replicas: Sequence[str], imbalanced_threshold: float) -> None:
        from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_tree import PrefixTree

        self._tree = PrefixTree()
        self._tree.add_tenants(list(replicas), 0.0)
        self._threshold = imbalanced_threshold
        self._fallback = PowerOfTwo()

    def choose(
        self, number: int, blocks: Sequence[int], hint: RoutingHint, queues: Mapping[str, int], now: float
    ) -> str:
        text = "".join(chr(FIRST_CHARACTER + block) for block in blocks)
        if max(queues.values()) - min(queues.values()) > self._threshold:
            chosen = self._fallback.choose(number, blocks, hint, queues, now)
        else:
            matched, tenants = self._tree.prefix_match(text, list(queues))
            if len(matched) / len(text) < 0.1:
                tenants = self._tree.get_smallest_tenants()
            chosen = min(tenants or list(queues), key=lambda name: queues[name])
        self._tree.insert(text, chosen, now)
        return str(chosen)

    def ended(self, number: int, replica: str) -> None:
        return


class Ours:
    """`PrefixLoad`, as `PrefixLoadRouter` calls it.

    Args:
        cache_blocks: blocks that a replica's cache holds, as it reports.
    """

    def __init__(self, replicas: Sequence[str], cache_tokens: int, max_skew: float) -> None:
        self._policy = PrefixLoad("bench", max_skew=max_skew)
        for replica in replicas:
            self._policy.report(replica, Report(cache_tokens=cache_tokens), 0.0)

    def choose(
        self, number: int, blocks: Sequence[int], hint: RoutingHint, queues: Mapping[str, int], now: float
    ) -> str:
        chosen = self._policy.choose(number, str(number), hint, list(queues), now)[0].replica
        self._policy.started(number, str(number), chosen, hint, now)
        return chosen

    def ended(self, number: int, replica: str) -> None:
        self._policy.ended(str(number), replica)
