"""What a replica has taken on and not done, in tokens: by the sender of each call, for routers; in all, for scaling."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.serve.routing.work import ExpectedWork

SENDER_MEMORY_S = 60.0
"""A sender that sent nothing for so long counts as gone."""


class Entry:
    """One call, from its arrival to its end."""

    def __init__(self, work: ExpectedWork) -> None:
        self.sender = work.sender
        self._num_prompt_tokens = work.num_prompt_tokens
        self._num_completion_tokens = work.num_completion_tokens
        self._max_completion_tokens = work.max_completion_tokens
        self._num_done: int | None = None

    def advance(self, num_completion_tokens: int) -> None:
        """So many are generated: the prompt is read."""
        self._num_done = num_completion_tokens

    @property
    def num_tokens(self) -> float:
        """Left to do; one at least while the call runs. A completion that is longer than was expected is taken to be
        as long again: lengths have heavy tails."""
        if self._num_done is None:
            return self._num_prompt_tokens + self._num_completion_tokens
        as_long_again = min(self._num_done, self._max_completion_tokens - self._num_done)
        return max(1.0, self._num_completion_tokens - self._num_done, as_long_again)


class Ledger:
    """All calls of one replica.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: set[Entry] = set()
        self._last_seen: dict[str, float] = {}

    def begin(self, work: ExpectedWork) -> Entry:
        entry = Entry(work)
        self._open.add(entry)
        self._last_seen[work.sender] = self._clock()
        return entry

    def end(self, entry: Entry) -> None:
        self._open.discard(entry)

    @property
    def num_tokens(self) -> float:
        """Outstanding."""
        return sum(entry.num_tokens for entry in self._open)

    def report(self, cache_tokens: int | None) -> dict[str, object]:
        """For routers, as `policy.Report` reads it. A single sender knows what it has sent: it is told nothing new, so
        that Serve has nothing to pass on."""
        now = self._clock()
        busy = {entry.sender for entry in self._open}
        recent = {sender: at for sender, at in self._last_seen.items() if sender in busy or now - at < SENDER_MEMORY_S}
        self._last_seen = recent
        if len(recent) < 2:
            return {"cache_tokens": cache_tokens}
        outstanding: defaultdict[str, float] = defaultdict(float)
        for entry in self._open:
            outstanding[entry.sender] += entry.num_tokens
        return {"outstanding": dict(outstanding), "cache_tokens": cache_tokens, "at": now}
