"""Where the ledger is kept: in this process, or in one process for all that answer HTTP."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from fastserve_ray.serve.quota.ledger import Ledger

if TYPE_CHECKING:
    from fastserve_ray.serve.quota.ledger import Allowance, Usage, Verdict

logger = logging.getLogger("ray.serve")

ANSWER_TIMEOUT_S = 2.0
"""A ledger that does not answer in this time counts as away."""
AWAY = (RayError, RayServeException, TimeoutError)


class Keeper(Protocol):
    """Asks the ledger; see `ledger.Ledger`."""

    async def take(self, key: str, model: str, num_tokens: int, allowance: Allowance) -> Verdict: ...

    def settle(self, key: str, model: str, taken: int, num_prompt_tokens: int, num_completion_tokens: int) -> None:
        """Does not wait."""
        ...

    async def usage(self, key: str | None) -> Usage: ...


class LocalKeeper:
    """The ledger is here: right where one process answers HTTP."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    async def take(self, key: str, model: str, num_tokens: int, allowance: Allowance) -> Verdict:
        return self._ledger.take(key, model, num_tokens, allowance)

    def settle(self, key: str, model: str, taken: int, num_prompt_tokens: int, num_completion_tokens: int) -> None:
        self._ledger.settle(key, model, taken, num_prompt_tokens, num_completion_tokens)

    async def usage(self, key: str | None) -> Usage:
        return self._ledger.usage(key)


class SharedKeeper:
    """The ledger is a deployment of the application, `deployment.QuotaLedger`, so that a key's allowance is one,
    however many processes answer HTTP.

    While it is away, each process lets in what a ledger of its own allows: so with k of them a key has at most k times
    its allowance until Serve has brought the deployment back, and nobody is refused for its absence.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._own = LocalKeeper()
        self._settling: set[asyncio.Task[None]] = set()

    async def take(self, key: str, model: str, num_tokens: int, allowance: Allowance) -> Verdict:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                verdict: Verdict = await self._handle.take.remote(key, model, num_tokens, allowance)
        except AWAY:
            logger.warning("the ledger of quotas is away; this process counts for itself")
            return await self._own.take(key, model, num_tokens, allowance)
        return verdict

    def settle(self, key: str, model: str, taken: int, num_prompt_tokens: int, num_completion_tokens: int) -> None:
        task = asyncio.create_task(self._settle(key, model, taken, num_prompt_tokens, num_completion_tokens))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, *arguments: Any) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._handle.settle.remote(*arguments)
        except AWAY:
            self._own.settle(*arguments)

    async def usage(self, key: str | None) -> Usage:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                usage: Usage = await self._handle.usage.remote(key)
        except AWAY:
            return await self._own.usage(key)
        return usage
