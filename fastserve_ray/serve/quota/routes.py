"""The HTTP face of the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.serve.auth.caller import current_caller
from fastserve_ray.serve.wire.usage import KeyUsage, UsageList

if TYPE_CHECKING:
    from fastapi import FastAPI

    from fastserve_ray.serve.quota.keeper import Keeper


def add_usage(app: FastAPI, keeper: Keeper) -> None:
    """``GET /v1/usage``: of the caller's key; of all keys for one with ``admin``, and where no keys are asked for."""

    @app.get("/v1/usage")
    async def usage() -> UsageList:
        key = current_caller().key
        found = await keeper.usage(None if key is None or key.admin else key.name)
        return UsageList(
            since=int(found.since),
            data=[
                KeyUsage(
                    key=used.key,
                    model=used.model,
                    requests=used.num_requests,
                    refused=used.num_refused,
                    prompt_tokens=used.num_prompt_tokens,
                    completion_tokens=used.num_completion_tokens,
                )
                for used in found.used
            ],
        )
