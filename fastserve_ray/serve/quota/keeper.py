"""Where the ledger is kept: in this process, or in one process for all that answer HTTP."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from fastserve_ray.serve.quota.ledger import Allowance, Ledger, Used, Verdict

if TYPE_CHECKING:
    from fastserve_ray.serve.quota.ledger import Usage

logger = logging.getLogger("ray.serve")

ANSWER_TIMEOUT_S = 2.0
"""A ledger that does not answer in this time counts as away."""
TELL_EVERY_S = 1.0
"""What keys without limits have used is told so often, all at once."""
NO_LIMIT = Allowance()
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

    Requests of a key without limits do not wait for it: what they use is told once in `TELL_EVERY_S`.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._own = LocalKeeper()
        self._settling: set[asyncio.Task[None]] = set()
        self._unlimited: set[str] = set()
        """Keys, as of their last requests."""
        self._untold: dict[tuple[str, str], Used] = {}
        """By key and model, of keys without limits."""
        self._telling: asyncio.Task[None] | None = None

    async def take(self, key: str, model: str, num_tokens: int, allowance: Allowance) -> Verdict:
        if allowance == NO_LIMIT:
            self._unlimited.add(key)
            self._note(Used(key, model, num_requests=1))
            return Verdict()
        self._unlimited.discard(key)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                verdict: Verdict = await self._handle.take.remote(key, model, num_tokens, allowance)
        except AWAY:
            logger.warning("the ledger of quotas is away; this process counts for itself")
            return await self._own.take(key, model, num_tokens, allowance)
        return verdict

    def settle(self, key: str, model: str, taken: int, num_prompt_tokens: int, num_completion_tokens: int) -> None:
        if key in self._unlimited:
            used = Used(key, model, num_prompt_tokens=num_prompt_tokens, num_completion_tokens=num_completion_tokens)
            self._note(used)
            return
        task = asyncio.create_task(self._settle(key, model, taken, num_prompt_tokens, num_completion_tokens))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, *arguments: Any) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._handle.settle.remote(*arguments)
        except AWAY:
            self._own.settle(*arguments)

    def _note(self, used: Used) -> None:
        self._untold.setdefault((used.key, used.model), Used(used.key, used.model)).add(used)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_later())

    async def _tell_later(self) -> None:
        while self._untold:
            await asyncio.sleep(TELL_EVERY_S)
            await self._tell()

    async def _tell(self) -> None:
        """What cannot be told now is told later."""
        told, self._untold = self._untold, {}
        if not told:
            return
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._handle.add.remote(tuple(told.values()))
        except AWAY:
            for used in told.values():
                self._note(used)

    async def usage(self, key: str | None) -> Usage:
        await self._tell()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                usage: Usage = await self._handle.usage.remote(key)
        except AWAY:
            return await self._own.usage(key)
        return usage
