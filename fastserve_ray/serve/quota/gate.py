"""The queue in front of a model's replicas, fair between keys.

Serve's own queue is first come, first served: a key that floods would hold every place in the replicas and in the
queue, and the engine's fair policy would never see the others. So requests wait here, and no more are let through than
the replicas take.

Who is next: the waiting key that was given least, in tokens over weight (start-time fair queueing, Goyal et al. 1996).
How much one key may hold: at most `SHARE` times the places that are free (dynamic thresholds, Choudhury and Hahne
1998), so that one key alone leaves a quarter free for those who come, two leave a seventh, and nothing has to be
configured. Who is turned away when too many wait: the newest of the key that waits most, weights counted, even when a
request of another key is what has overfilled the queue.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass

SHARE = 3


class QueueFull(Exception):  # noqa: N818 - an event
    """Too many wait.

    Args:
        num_ahead: requests of the same key that wait or run.
    """

    def __init__(self, num_ahead: int) -> None:
        super().__init__(num_ahead)
        self.num_ahead = num_ahead


@dataclass(eq=False)
class _Turn:
    key: str
    cost: float
    """Over weight."""
    num_tokens: float
    granted: asyncio.Future[None]


class Gate:
    """Of one model, in one process.

    Args:
        limit: requests inside at once.
        max_waiting: requests in the queue.
    """

    def __init__(self, limit: int, max_waiting: int) -> None:
        self._limit = limit
        self._max_waiting = max_waiting
        self._waiting: dict[str, deque[_Turn]] = {}
        """Keys that wait."""
        self._weights: dict[str, float] = {}
        self._inside: Counter[str] = Counter()
        self._given: dict[str, float] = {}
        """Cost over weight that a key was given, on a scale on which those who come late begin where service is."""
        self._virtual = 0.0
        """Where service is: what the key let in last had been given before."""

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def num_inside(self) -> int:
        return self._inside.total()

    @property
    def num_waiting_tokens(self) -> float:
        """Of work that waits."""
        return sum(turn.num_tokens for turns in self._waiting.values() for turn in turns)

    def waiting_by_key(self) -> dict[str, int]:
        return {key: len(turns) for key, turns in self._waiting.items()}

    @property
    def limit(self) -> int:
        """Requests inside at once."""
        return self._limit

    def resize(self, limit: int) -> None:
        """Replicas came or went."""
        self._limit = limit
        self._let_in()

    async def enter(self, key: str, *, weight: float = 1.0, cost: float = 1.0, num_tokens: float = 0.0) -> None:
        """Wait for a place; it is kept until `leave`. A caller that is cancelled has none.

        Args:
            cost: what it uses of the key's share.
            num_tokens: what it is expected to be, for whoever asks how much waits.

        Raises:
            QueueFull: this request is turned away.
        """
        turn = _Turn(key, cost / weight, num_tokens, asyncio.get_running_loop().create_future())
        self._weights[key] = weight
        if key not in self._waiting and not self._inside[key]:
            self._given[key] = max(self._given.get(key, 0.0), self._virtual)
        self._waiting.setdefault(key, deque()).append(turn)
        self._let_in()
        if self.num_waiting > self._max_waiting:
            self._turn_away()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.done() and not turn.granted.cancelled() and turn.granted.exception() is None:
                self.leave(key)
            else:
                self._forget(turn)
            raise

    def leave(self, key: str) -> None:
        """A request that was inside has ended."""
        self._inside[key] -= 1
        self._let_in()
        self._close(key)

    def _let_in(self) -> None:
        while (key := self._next_key()) is not None:
            turn = self._waiting[key].popleft()
            if not self._waiting[key]:
                del self._waiting[key]
            self._inside[key] += 1
            self._virtual = max(self._virtual, self._given[key])
            self._given[key] += turn.cost
            turn.granted.set_result(None)

    def _next_key(self) -> str | None:
        num_free = self._limit - self.num_inside
        if num_free <= 0:
            return None
        able = [key for key in self._waiting if not self._inside[key] or self._inside[key] < SHARE * num_free]
        return min(able, key=self._given.__getitem__, default=None)

    def _turn_away(self) -> None:
        key = max(self._waiting, key=lambda key: len(self._waiting[key]) / self._weights[key])
        turn = self._waiting[key][-1]
        num_ahead = len(self._waiting[key]) - 1 + self._inside[key]
        self._forget(turn)
        turn.granted.set_exception(QueueFull(num_ahead))

    def _forget(self, turn: _Turn) -> None:
        """``turn`` waits no more."""
        turns = self._waiting.get(turn.key)
        if turns is None or turn not in turns:
            return
        turns.remove(turn)
        if not turns:
            del self._waiting[turn.key]
        self._close(turn.key)

    def _close(self, key: str) -> None:
        """Forget a key that is not here any more; what it was given counts until service has come so far."""
        if key not in self._waiting and not self._inside[key]:
            del self._inside[key]
            self._weights.pop(key, None)
        if not self._waiting and not self._inside:
            self._given.clear()
            self._virtual = 0.0
            return
        for idle in [name for name in self._given if name not in self._inside and name not in self._waiting]:
            if self._given[idle] <= self._virtual:
                del self._given[idle]
