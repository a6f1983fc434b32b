"""When a request goes to another replica: the one that had it was lost, nothing was answered yet, and there is time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.serve.failures import RequestFailed

MAX_TRIES = 3
"""Replicas that one request is sent to, one after the other, when they are lost: it may be what ends them."""
RETRY_PAUSE_S = 0.1
"""Until the router has heard of the loss, too."""


class Tries:
    """Of one request.

    Args:
        deadline: on the event loop's clock.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._num_left = MAX_TRIES - 1

    def end(self) -> None:
        """Something was answered, so this try is the last."""
        self._num_left = 0

    async def pause_after(self, failed: RequestFailed) -> None:
        """Wait a moment for the next try.

        Raises:
            RequestFailed: there is none.
        """
        has_time = asyncio.get_running_loop().time() + RETRY_PAUSE_S < self._deadline
        if not (failed.failure.may_retry and self._num_left and has_time):
            raise failed
        self._num_left -= 1
        await asyncio.sleep(RETRY_PAUSE_S)
