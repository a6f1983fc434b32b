"""Several engines on one fake clock behind a router: the engine's own scheduler and block pool, no model.

What decides is real: prefixes are shared, evicted and matched by the engine's code, batches are its scheduler's. Only
the seconds of a step come from a time model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, cast

from benchmarks.routers.trace import TRACE_BLOCK
from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
from fastserve_ray.engines.simulation.outcome import percentile
from fastserve_ray.engines.simulation.time_model import StepLoad
from fastserve_ray.engines.torch.block_pool import BlockPool
from fastserve_ray.engines.torch.policies import make_policy
from fastserve_ray.engines.torch.scheduler import Scheduler
from fastserve_ray.engines.torch.sequence import Sequence
from fastserve_ray.serve.routing.hint import BLOCK_TOKENS, RoutingHint
from fastserve_ray.spec.serve import EngineSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Items

    from benchmarks.routers.choosers import Chooser
    from benchmarks.routers.trace import TraceRequest
    from fastserve_ray.engines.simulation.time_model import TimeModel
    from fastserve_ray.engines.torch.profile import Profile
    from fastserve_ray.engines.torch.sampling import Sampler
    from fastserve_ray.engines.torch.text import TextStream

KEYS_A_BLOCK = TRACE_BLOCK // BLOCK_TOKENS
"""Routing keys for a block of the trace."""


@dataclass(frozen=True)
class Machine:
    """What every replica is."""

    times: TimeModel
    profile: Profile
    cache_tokens: int
    max_num_seqs: int
    max_num_batched_tokens: int


@dataclass
class RoutedRun:
    """What a run showed."""

    first_tokens: list[float] = field(default_factory=list)
    """Seconds of each request to its first token."""
    hit_rate: float = 0.0
    """Prompt tokens found in a replica's cache, over all."""
    work: list[int] = field(default_factory=list)
    """By replica, tokens that it computed."""
    queued: list[float] = field(default_factory=list)
    """By replica, outstanding tokens, averaged over the arrivals; empty where nobody looked."""

    def row(self) -> dict[str, float | None]:
        """For a table."""
        return {
            "hit rate": self.hit_rate,
            "mean TTFT s": fmean(self.first_tokens),
            "p95 TTFT s": percentile(self.first_tokens, 95),
            "work max/mean": max(self.work) / fmean(self.work),
            "queue max/mean": max(self.queued) / fmean(self.queued) if self.queued else None,
        }


class Replica:
    """One simulated engine."""

    def __init__(self, machine: Machine, on_end: Callable[[int], None]) -> None:
        self.now = 0.0
        self._times = machine.times
        self._on_end = on_end
        self._lengths: dict[str, int] = {}
        self._waiting_for_first: dict[str, float] = {}
        self.first_tokens: list[float] = []
        self.num_generated = 0
        spec = EngineSpec(max_num_seqs=machine.max_num_seqs, max_num_batched_tokens=machine.max_num_batched_tokens)
        self.scheduler = Scheduler(
            make_policy(spec.scheduler, machine.profile),
            BlockPool(machine.cache_tokens // TRACE_BLOCK, TRACE_BLOCK),
            None,
            max_num_seqs=spec.max_num_seqs,
            max_num_batched_tokens=spec.max_num_batched_tokens,
            shares_prefixes=True,
            clock=lambda: self.now,
        )

    @property
    def num_requests(self) -> int:
        return len(self._lengths)

    @property
    def num_outstanding_tokens(self) -> int:
        return sum(sequence.num_outstanding_tokens for sequence in self.scheduler.sequences.values())

    def add(self, number: int, request: TraceRequest) -> None:
        name, length = str(number), request.num_completion_tokens
        prompt = tuple(block for block in request.blocks for _ in range(TRACE_BLOCK))
        self._lengths[name] = length
        self._waiting_for_first[name] = request.at
        self.scheduler.add(
            Sequence(
                GenerateRequest(name, prompt, SamplingParams(max_tokens=length, ignore_eos=True)),
                arrival=number,
                arrived_at=request.at,
                max_tokens=length,
                text=cast("TextStream", None),
                sampler=cast("Sampler", None),
            )
        )

    def run_until(self, then: float) -> None:
        """Step while there is work that begins before ``then``."""
        while self.scheduler.has_work() and self.now < then:
            self._step()
        if then != float("inf"):
            self.now = max(self.now, then)

    def _step(self) -> None:
        plan = self.scheduler.schedule()
        self.now += self._times.compute_seconds(StepLoad.of(plan))
        self.scheduler.account(plan)
        for chunk in plan.chunks:
            if chunk.ends_sequence:
                self._advance(chunk.sequence)

    def _advance(self, sequence: Sequence) -> None:
        sequence.token_ids.append(0)
        self.num_generated += 1
        name = sequence.request_id
        arrived = self._waiting_for_first.pop(name, None)
        if arrived is not None:
            self.first_tokens.append(self.now - arrived)
        if sequence.num_completion_tokens >= self._lengths[name]:
            self.scheduler.remove(name)
            del self._lengths[name]
            self._on_end(int(name))


def simulate(
    machine: Machine, requests: Items[TraceRequest], replicas: Items[str], chooser: Chooser, *, speed: float
) -> RoutedRun:
    """All of ``requests`` to their end.

    Args:
        speed: of the trace's arrivals; 2 halves the time between them.
    """
    homes: dict[int, str] = {}
    fleet = {name: Replica(machine, lambda number: chooser.ended(number, homes[number])) for name in replicas}
    queued: list[list[int]] = []
    for number, request in enumerate(requests):
        request = _at(request, request.at / speed)  # noqa: PLW2901 - the trace's own clock ends here
        for replica in fleet.values():
            replica.run_until(request.at)
        queues = {name: replica.num_requests for name, replica in fleet.items()}
        homes[number] = chooser.choose(number, request.blocks, _hint(request), queues, request.at)
        fleet[homes[number]].add(number, request)
        queued.append([replica.num_outstanding_tokens for replica in fleet.values()])
    for replica in fleet.values():
        replica.run_until(float("inf"))
    return _sum_up(list(fleet.values()), queued)


def _sum_up(fleet: list[Replica], queued: list[list[int]]) -> RoutedRun:
    counts = [replica.scheduler.counts for replica in fleet]
    prompts, hits = sum(one.prompt_tokens for one in counts), sum(one.prefix_hit_tokens for one in counts)
    return RoutedRun(
        first_tokens=[seconds for replica in fleet for seconds in replica.first_tokens],
        hit_rate=hits / prompts,
        work=[
            one.prompt_tokens - one.prefix_hit_tokens + replica.num_generated
            for one, replica in zip(counts, fleet, strict=True)
        ],
        queued=[fmean(column) for column in zip(*queued, strict=True)],
    )


def _at(request: TraceRequest, at: float) -> TraceRequest:
    return type(request)(at, request.blocks, request.num_completion_tokens)


def _hint(request: TraceRequest) -> RoutingHint:
    """What the ingress knows: the prompt, and the completion as calls before it were on average."""
    keys = tuple(block * KEYS_A_BLOCK + part for block in request.blocks for part in range(KEYS_A_BLOCK))
    return RoutingHint(keys, float(len(request.blocks) * TRACE_BLOCK), MEAN_COMPLETION)


MEAN_COMPLETION = 150.0
"""Tokens; the trace's mean."""
