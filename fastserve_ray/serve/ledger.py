"""What a replica has taken on and not done, in tokens: by the sender of each call, for routers; in all, for scaling."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.serve.calls import GateLoad
    from fastserve_ray.serve.routing.work import ExpectedWork

WAITING_LIFETIME_S = 10.0
"""After that what waits in a process that has told nothing more counts as gone."""


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
        self._waiting: dict[str, tuple[float, float]] = {}
        """By sender, when it was told and how many tokens."""

    def begin(self, work: ExpectedWork) -> Entry:
        entry = Entry(work)
        self._open.add(entry)
        return entry

    def end(self, entry: Entry) -> None:
        self._open.discard(entry)

    def note(self, load: GateLoad | None) -> None:
        """What waits at a gate now; it replaces what the same sender has told before."""
        if load is not None:
            self._waiting[load.sender] = self._clock(), load.num_tokens

    @property
    def num_tokens(self) -> float:
        """Outstanding."""
        return sum(entry.num_tokens for entry in self._open)

    @property
    def num_waiting_tokens(self) -> float:
        """Of calls that were not sent yet."""
        oldest = self._clock() - WAITING_LIFETIME_S
        self._waiting = {sender: told for sender, told in self._waiting.items() if told[0] > oldest and told[1] > 0}
        return sum(num_tokens for _, num_tokens in self._waiting.values())

    def report(self, cache_tokens: int | None) -> dict[str, object]:
        """For routers, as `policy.Report` reads it. It tells of a single sender, too: a router in another process that
        has sent nothing here yet is just the one that does not know. Without work it is the same from one time to the
        next, so that Serve has nothing to pass on."""
        if not self._open:
            return {"cache_tokens": cache_tokens}
        outstanding: defaultdict[str, float] = defaultdict(float)
        for entry in self._open:
            outstanding[entry.sender] += entry.num_tokens
        return {"outstanding": dict(outstanding), "cache_tokens": cache_tokens, "at": self._clock()}
