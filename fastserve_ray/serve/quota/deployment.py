"""The ledger as a deployment of the application: one replica, without torch.

What it holds is kept in Ray's own store of the cluster (GCS), which outlives it: it is written every `SAVE_EVERY_S`
seconds if something has changed, and read when the deployment starts, on whatever node. So a replica that is lost takes
the last seconds with it, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

from ray.experimental import internal_kv

from fastserve_ray.serve.quota.ledger import Ledger

if TYPE_CHECKING:
    from fastserve_ray.serve.quota.ledger import Allowance, Usage, Used, Verdict

logger = logging.getLogger("ray.serve")

SAVE_EVERY_S = 2.0
NAMESPACE = "fastserve-quota"
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)


class QuotaLedger:
    """Args:
    application: whose quotas these are.
    """

    def __init__(self, application: str) -> None:
        self._application = application
        self._ledger = Ledger()
        self._has_changed = False
        self._saving: asyncio.Task[None] | None = None
        self._restore()

    async def take(self, key: str, model: str, num_tokens: int, allowance: Allowance) -> Verdict:
        verdict = self._ledger.take(key, model, num_tokens, allowance)
        self._note()
        return verdict

    async def settle(
        self, key: str, model: str, taken: int, num_prompt_tokens: int, num_completion_tokens: int
    ) -> None:
        self._ledger.settle(key, model, taken, num_prompt_tokens, num_completion_tokens)
        self._note()

    async def add(self, used: tuple[Used, ...]) -> None:
        """What was used by requests that did not ask."""
        for one in used:
            self._ledger.add(one)
        self._note()

    async def usage(self, key: str | None) -> Usage:
        return self._ledger.usage(key)

    def _restore(self) -> None:
        state = load_state(self._application)
        try:
            if state is not None:
                self._ledger.restore(state)
        except UNREADABLE:
            logger.exception("what was kept of the quotas cannot be read; they begin anew")
            self._ledger = Ledger()

    def _note(self) -> None:
        self._has_changed = True
        if self._saving is None:
            self._saving = asyncio.create_task(self._save_forever())

    async def _save_forever(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            if self._has_changed:
                self._has_changed = False
                await self._save()

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(save_state, self._application, self._ledger.state())
        except Exception:
            logger.exception("the quotas could not be kept; tried again in %g s", SAVE_EVERY_S)
            self._has_changed = True


def save_state(application: str, state: dict[str, Any]) -> None:
    internal_kv._internal_kv_put(application, json.dumps(state), namespace=NAMESPACE)


def load_state(application: str) -> dict[str, Any] | None:
    """None where nothing is kept, or it is no JSON."""
    found = internal_kv._internal_kv_get(application, namespace=NAMESPACE)
    try:
        state: dict[str, Any] | None = None if found is None else json.loads(found)
    except ValueError:
        return None
    return state


def forget_state(application: str) -> None:
    """The application that is deployed next under this name begins anew."""
    internal_kv._internal_kv_del(application, namespace=NAMESPACE)
