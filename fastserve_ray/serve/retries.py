"""When a request goes to another replica: the one that had it was lost, nothing was answered yet, and there is time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.serve.failures import RequestFailed

MAX_TRIES = 3
"""Replicas that one request is sent to, one after the other, when they are lost: it may be what ends them."""
RETRY_PAUSE_S = 0.1
"""The router may not have heard of the loss by then, and choose the same replica again: that is not another try."""


class Tries:
    """Of one request.

    Args:
        deadline: on the event loop's clock.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._num_left = MAX_TRIES
        self._lost: set[str] = set()
        """Ids of the replicas' actors, as far as they are known."""
        self._is_answered = False

    def end(self) -> None:
        """Something was answered, so this try is the last."""
        self._is_answered = True

    async def pause_after(self, failed: RequestFailed) -> None:
        """Wait a moment for the next try.

        Raises:
            RequestFailed: there is none.
        """
        has_time = asyncio.get_running_loop().time() + RETRY_PAUSE_S < self._deadline
        replica = failed.failure.replica
        if replica not in self._lost:
            self._num_left -= 1
        if replica is not None:
            self._lost.add(replica)
        if not (failed.failure.may_retry and self._num_left and has_time) or self._is_answered:
            raise failed
        await asyncio.sleep(RETRY_PAUSE_S)
