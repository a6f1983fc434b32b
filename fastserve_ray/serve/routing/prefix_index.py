"""Which blocks of prompts each replica is thought to hold. It follows what was sent there and forgets as a cache does:
what was used longest ago first, the end of a prompt before its beginning."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_BLOCKS = 65_536
"""Blocks that a replica holds as long as it has not said how large its cache is; about a million tokens."""


class PrefixIndex:
    """One table for all replicas: a lookup costs as many steps as the longest match, whatever their number."""

    def __init__(self) -> None:
        self._holders: dict[int, set[str]] = {}
        self._blocks: dict[str, OrderedDict[int, None]] = {}
        """By replica, its keys; those used last are last."""
        self._capacities: dict[str, int] = {}

    def set_capacity(self, replica: str, num_blocks: int) -> None:
        """What the replica's cache holds; at least one block."""
        self._capacities[replica] = max(1, num_blocks)
        self._shrink(replica)

    def add(self, replica: str, keys: Sequence[int]) -> None:
        """The prompt of these keys is, or will be, in the replica's cache."""
        blocks = self._blocks.setdefault(replica, OrderedDict())
        for key in reversed(keys):
            blocks[key] = None
            blocks.move_to_end(key)
            self._holders.setdefault(key, set()).add(replica)
        self._shrink(replica)

    def match(self, keys: Sequence[int]) -> dict[str, int]:
        """By replica, how many of the first ``keys`` it holds; replicas that hold none are left out."""
        found: dict[str, int] = {}
        alive: set[str] = set(self._blocks)
        for number, key in enumerate(keys):
            still = alive & self._holders.get(key, set())
            found.update(dict.fromkeys(alive - still, number))
            alive = still
            if not alive:
                break
        found.update(dict.fromkeys(alive, len(keys)))
        return {replica: number for replica, number in found.items() if number}

    def remove(self, replica: str) -> None:
        """The replica is gone, and its cache with it."""
        for key in self._blocks.pop(replica, ()):
            self._drop(replica, key)
        self._capacities.pop(replica, None)

    def replicas(self) -> set[str]:
        """Those that hold a block or have told their capacity."""
        return set(self._blocks) | set(self._capacities)

    def num_blocks(self, replica: str) -> int:
        return len(self._blocks.get(replica, ()))

    def _shrink(self, replica: str) -> None:
        blocks = self._blocks.get(replica, OrderedDict())
        while len(blocks) > self._capacities.get(replica, DEFAULT_BLOCKS):
            self._drop(replica, blocks.popitem(last=False)[0])

    def _drop(self, replica: str, key: int) -> None:
        holders = self._holders[key]
        holders.discard(replica)
        if not holders:
            del self._holders[key]
