"""The ledger behind a handle: a handle that calls a real one, and one whose deployment is away."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import RayActorError

from fastserve_ray.serve.quota.keeper import LocalKeeper, SharedKeeper
from fastserve_ray.serve.quota.ledger import Allowance

FEW = Allowance(requests=2, tokens=100)


class Handle:
    """Calls ``ledger`` as Serve's handle does; with None it is away."""

    def __init__(self, ledger: LocalKeeper | None) -> None:
        self.ledger = ledger
        self._method = ""

    def __getattr__(self, method: str) -> Handle:
        found = Handle(self.ledger)
        found._method = method
        return found

    async def remote(self, *arguments: Any) -> Any:
        if self.ledger is None:
            raise RayActorError
        found = getattr(self.ledger, self._method)(*arguments)
        return await found if asyncio.iscoroutine(found) else found


async def test_processes_share_one_allowance() -> None:
    ledger = LocalKeeper()
    first, second = SharedKeeper(Handle(ledger)), SharedKeeper(Handle(ledger))
    assert (await first.take("few", "m", 60, FEW)).lacking is None
    assert (await second.take("few", "m", 60, FEW)).lacking == "tokens"
    first.settle("few", "m", 60, 10, 10)
    await asyncio.gather(*first._settling)
    assert (await second.take("few", "m", 60, FEW)).lacking is None
    (used,) = (await second.usage("few")).used
    assert (used.num_requests, used.num_refused, used.num_completion_tokens) == (2, 1, 10)


async def test_while_the_ledger_is_away_a_process_counts_for_itself() -> None:
    keeper = SharedKeeper(Handle(None))
    assert [(await keeper.take("few", "m", 1, FEW)).lacking for _ in range(3)] == [None, None, "requests"]
    keeper.settle("few", "m", 1, 3, 4)
    await asyncio.gather(*keeper._settling)
    (used,) = (await keeper.usage("few")).used
    assert (used.num_requests, used.num_completion_tokens) == (2, 4)
