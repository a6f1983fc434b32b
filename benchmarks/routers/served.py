"""Real Serve replicas behind a router, driven from this process through the deployment's handle."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from benchmarks.engine import SHAPES, tokenizer_for
from benchmarks.routers.simulated import RoutedRun
from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.serve.calls import Frame, GenerateCall
from fastserve_ray.serve.replica import replica_id
from fastserve_ray.serve.routing.hint import BLOCK_TOKENS
from fastserve_ray.serve.routing.work import WorkEstimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.routers.trace import TraceRequest

MAX_BLOCKS = 120
"""Of a prompt, of `BLOCK_TOKENS` each: the trace divided by 32, its longest prompts cut."""
MAX_MODEL_LEN = (MAX_BLOCKS + 4) * BLOCK_TOKENS
MAX_TOKENS = 16
CACHE_TOKENS = 1_000_000 // 32
"""Of each replica: as of the simulated machine, divided as the prompts are."""
NUM_CLIENTS = 16
LOOK_EVERY_S = 0.2
"""How often replicas are asked what they have to do."""


def save_model(folder: Path) -> Path:
    """A tiny model of random weights whose context takes the scaled trace."""
    shape = SHAPES[0]
    shape.build(MAX_MODEL_LEN).save_pretrained(folder)
    tokenizer = tokenizer_for(shape.vocab_size)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(folder)
    return folder


def run(router: str, options: dict[str, Any], requests: Sequence[TraceRequest], num_replicas: int) -> RoutedRun:
    """``requests`` from `NUM_CLIENTS` clients, each with one request at a time.

    Each run has an application's name of its own: under one that was used before, this process gets the old
    deployment's router from Serve, whatever the new one asks for.
    """
    from ray import serve

    from fastserve_ray.serve.app import router_config
    from fastserve_ray.serve.replica import GenerateReplica
    from fastserve_ray.serve.source import ModelSource
    from fastserve_ray.spec.serve import EngineSpec, RouterSpec

    application = f"bench-{uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        deployment = serve.deployment(
            counting(GenerateReplica),
            name="model",
            num_replicas=num_replicas,
            ray_actor_options={"num_cpus": 0},
            max_ongoing_requests=64,
            request_router_config=router_config(RouterSpec(kind=router, **options)),
        )
        spec = EngineSpec(num_threads=1, kv_cache_tokens=CACHE_TOKENS, max_num_seqs=16, max_num_batched_tokens=256)
        source = ModelSource(str(save_model(Path(folder))))
        handle = serve.run(deployment.bind(source, spec), name=application, route_prefix=None)
        try:
            found, outstanding = asyncio.run(_drive(handle, requests))
            counts = handle.broadcast("counts").results(timeout_s=60)
        finally:
            serve.delete(application)
    prompts, hits = sum(one[0] for one in counts), sum(one[1] for one in counts)
    return RoutedRun(found, hits / prompts, [one[0] - one[1] + one[2] for one in counts], outstanding)


def counting(replica: type) -> type:
    """With methods that tell what the engine has counted, and what the replica has to do."""

    class Counting(replica):
        async def counts(self) -> tuple[int, int, int]:
            stats = self._engine.stats()
            return stats.prompt_tokens, stats.prefix_hit_tokens, stats.num_generated_tokens

        async def outstanding(self) -> tuple[str, float]:
            return replica_id(), self._ledger.num_tokens

    return Counting


async def _drive(handle: Any, requests: Sequence[TraceRequest]) -> tuple[list[float], list[float]]:
    """Times to first tokens; by replica, tokens outstanding on average."""
    to_come = iter(enumerate(requests))
    estimate, first_tokens = WorkEstimate(), []

    async def client() -> None:
        for number, request in to_come:
            first_tokens.append(await _ask(handle, _call(number, request), estimate))

    sums: Counter[str] = Counter()
    watch = asyncio.create_task(_watch(handle, sums))
    await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))
    watch.cancel()
    return first_tokens, list(sums.values())


async def _watch(handle: Any, sums: Counter[str]) -> None:
    while True:
        for replica, tokens in await handle.broadcast("outstanding").results_async(timeout_s=60):
            sums[replica] += tokens
        await asyncio.sleep(LOOK_EVERY_S)


async def _ask(handle: Any, call: GenerateCall, estimate: WorkEstimate) -> float:
    began, first, last = perf_counter(), None, None
    async for item in handle.options(stream=True).stream.remote(replace(call, work=estimate.expect(call))):
        if not isinstance(item, Frame):
            raise RuntimeError(f"a request failed: {item}")
        first, last = first or perf_counter() - began, item
    assert first is not None
    assert last is not None
    estimate.learn(call, last)
    return first


def _call(number: int, request: TraceRequest) -> GenerateCall:
    """A block of the trace becomes one of `BLOCK_TOKENS`, drawn by its hash."""
    vocabulary = SHAPES[0].vocab_size
    blocks = request.blocks[:MAX_BLOCKS]
    tokens = tuple(
        1 + (block * 7919 + place * 104_729) % (vocabulary - 1) for block in blocks for place in range(BLOCK_TOKENS)
    )
    length = min(MAX_TOKENS, max(1, request.num_completion_tokens // 32))
    return GenerateCall(
        f"bench-{number}", prompts=(tokens,), max_tokens=length, sampling=SamplingParams(temperature=0, ignore_eos=True)
    )
