"""The ledger behind a handle: a handle that calls a real one, and one whose deployment is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayActorError

from fastserve_ray.serve.quota import keeper as keeper_module
from fastserve_ray.serve.quota.deployment import QuotaLedger
from fastserve_ray.serve.quota.keeper import SharedKeeper
from fastserve_ray.serve.quota.ledger import Allowance

if TYPE_CHECKING:
    import pytest

FEW = Allowance(requests=2, tokens=100)


class Unkept(QuotaLedger):
    """Without a Ray to keep it in."""

    def _restore(self) -> None:
        return

    async def _save(self) -> None:
        return


class Handle:
    """Calls ``ledger`` as Serve's handle does; with None it is away."""

    def __init__(self, ledger: QuotaLedger | None) -> None:
        self.ledger = ledger
        self._method = ""

    def __getattr__(self, method: str) -> Handle:
        found = Handle(self.ledger)
        found._method = method
        return found

    async def remote(self, *arguments: Any) -> Any:
        if self.ledger is None:
            raise RayActorError
        return await getattr(self.ledger, self._method)(*arguments)


async def test_processes_share_one_allowance() -> None:
    ledger = Unkept("app")
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


async def test_keys_without_limits_do_not_wait_for_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "TELL_EVERY_S", 0.01)
    handle = Handle(None)
    keeper = SharedKeeper(handle)
    for _ in range(3):
        assert (await keeper.take("free", "m", 5, Allowance())).lacking is None
        keeper.settle("free", "m", 5, 10, 20)
    assert keeper._own._ledger.usage().used == (), "nobody was asked"
    await asyncio.sleep(0.05)
    handle.ledger = Unkept("app")
    (used,) = (await keeper.usage("free")).used
    assert (used.num_requests, used.num_prompt_tokens, used.num_completion_tokens) == (3, 30, 60), "nothing is lost"
    assert keeper._telling is not None
    await asyncio.wait_for(keeper._telling, 30)


async def test_a_key_that_gets_a_limit_is_counted_from_then_on() -> None:
    ledger = Unkept("app")
    keeper = SharedKeeper(Handle(ledger))
    await keeper.take("few", "m", 50, Allowance())
    assert (await keeper.take("few", "m", 90, FEW)).lacking is None
    assert (await keeper.take("few", "m", 20, FEW)).lacking == "tokens"
    (used,) = (await keeper.usage("few")).used
    assert (used.num_requests, used.num_refused) == (2, 1)
