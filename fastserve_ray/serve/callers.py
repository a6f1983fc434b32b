"""Calls whose caller has ended are cancelled: nobody reads their answers.

Ray lets the task of an actor run on when the process that asked for it is gone, and Serve does not look. So a replica
asks Ray, while it has calls, whether their callers are alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger("ray.serve")

LOOK_S = 1.0
"""Between two looks."""


def has_ended(actor_id: str) -> bool:
    """Whether Ray counts the actor as dead. False where Ray does not answer, which says nothing of the actor."""
    from ray._private.state import actors  # Ray's public call goes to its dashboard, which need not run

    try:
        return bool(actors(actor_id).get("State") == "DEAD")
    except Exception as error:  # noqa: BLE001 - whatever it is, the next look may find out
        logger.warning("Ray does not say whether actor %s lives: %r", actor_id, error)
        return False


class Callers:
    """Of the calls of one event loop.

    Args:
        has_ended: whether the actor of this id is gone for good; called in a thread.
    """

    def __init__(self, has_ended: Callable[[str], bool] = has_ended, look_s: float = LOOK_S) -> None:
        self._has_ended = has_ended
        self._look_s = look_s
        self._calls: defaultdict[str, set[asyncio.Task[Any]]] = defaultdict(set)
        self._watch: asyncio.Task[None] | None = None

    @contextmanager
    def waiting(self, caller: str | None) -> Iterator[None]:
        """While the current task works for ``caller``: cancel it when that ends. None: nobody knows who asked."""
        task = asyncio.current_task()
        if caller is None or task is None:
            yield
            return
        self._calls[caller].add(task)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self._calls[caller].discard(task)
            if not self._calls[caller]:
                del self._calls[caller]

    async def _look(self) -> None:
        while self._calls:
            await asyncio.sleep(self._look_s)
            for caller in list(self._calls):
                if await asyncio.to_thread(self._has_ended, caller):
                    self._cancel(caller)

    def _cancel(self, caller: str) -> None:
        tasks = self._calls.get(caller, set())
        logger.warning("%d calls are cancelled, since the process that waits for them has ended", len(tasks))
        for task in list(tasks):
            task.cancel()
