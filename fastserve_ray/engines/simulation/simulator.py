"""A discrete-event simulation of the generate engine: the real `Scheduler` and policy, a fake clock, no model.

An event is a step or an arrival. Everything that decides is the engine's own code; only the seconds of a step come from
a `TimeModel`, so that a larger machine can be judged by giving its profile.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
from fastserve_ray.engines.simulation.outcome import Outcome, Summary, summarize
from fastserve_ray.engines.simulation.time_model import StepLoad
from fastserve_ray.engines.torch.block_pool import BlockPool
from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE
from fastserve_ray.engines.torch.policies import make_policy
from fastserve_ray.engines.torch.scheduler import Scheduler
from fastserve_ray.engines.torch.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastserve_ray.engines.simulation.outcome import Arrival
    from fastserve_ray.engines.simulation.time_model import TimeModel
    from fastserve_ray.engines.torch.profile import Profile
    from fastserve_ray.engines.torch.sampling import Sampler
    from fastserve_ray.engines.torch.text import TextStream
    from fastserve_ray.spec.serve import EngineSpec

ANY_TOKEN = 0


@dataclass(frozen=True)
class SimulatedRun:
    """What a simulation saw."""

    outcomes: tuple[Outcome, ...]
    """In the order in which they ended."""
    summary: Summary
    seconds: float
    """From the start to the last token."""


class Simulator:
    """One run of an engine on a fake clock.

    Args:
        spec: ``kv_cache_tokens`` must be set: there is no memory here to derive it from.
        knows_lengths: requests say how long their completions will be, as an oracle.
        max_tokens: what every request allows for its completion; a policy sees it.

    Raises:
        ValueError: the spec does not say how large the KV cache is.
    """

    def __init__(
        self,
        spec: EngineSpec,
        profile: Profile,
        time_model: TimeModel,
        *,
        max_tokens: int,
        knows_lengths: bool = False,
    ) -> None:
        if spec.kv_cache_tokens is None:
            raise ValueError("a simulated engine has no memory to measure: set serve.engine.kv_cache_tokens")
        self.now = 0.0
        self._time_model = time_model
        self._max_tokens = max_tokens
        self._knows_lengths = knows_lengths
        self._lengths: dict[str, int] = {}
        self._first_tokens: dict[str, float] = {}
        self._outcomes: list[Outcome] = []
        self._swap_seconds = 0.0
        host_blocks = spec.kv_host_tokens // BLOCK_SIZE
        self._scheduler = Scheduler(
            make_policy(spec.scheduler, profile),
            BlockPool(spec.kv_cache_tokens // BLOCK_SIZE, BLOCK_SIZE),
            BlockPool(host_blocks, BLOCK_SIZE) if host_blocks else None,
            max_num_seqs=spec.max_num_seqs,
            max_num_batched_tokens=spec.max_num_batched_tokens,
            shares_prefixes=spec.prefix_caching,
            clock=lambda: self.now,
        )

    def run(self, arrivals: Iterable[Arrival]) -> SimulatedRun:
        """Until all of ``arrivals``, ascending in time, have ended."""
        to_come = deque(enumerate(arrivals))
        while to_come or self._scheduler.has_work():
            if not self._scheduler.has_work():
                self.now = max(self.now, to_come[0][1].at)
            while to_come and to_come[0][1].at <= self.now:
                self._add(*to_come.popleft())
            self._step()
        summary = summarize(
            self._outcomes,
            peak_blocks=self._scheduler.counts.peak_used_blocks,
            swap_seconds=self._swap_seconds,
            run_seconds=self.now,
        )
        return SimulatedRun(tuple(self._outcomes), summary, self.now)

    def _add(self, number: int, arrival: Arrival) -> None:
        name = str(number)
        length = arrival.num_completion_tokens
        request = GenerateRequest(
            name,
            (number,) * arrival.num_prompt_tokens,
            SamplingParams(max_tokens=self._max_tokens, ignore_eos=True),
            priority=arrival.priority,
            share_key=arrival.share_key,
            expected_tokens=length if self._knows_lengths else None,
        )
        self._lengths[name] = length
        # An engine would note the arrival between two steps; the request has waited since it came.
        self._scheduler.add(
            Sequence(
                request,
                arrival=number,
                arrived_at=arrival.at,
                max_tokens=self._max_tokens,
                text=cast("TextStream", None),
                sampler=cast("Sampler", None),
            )
        )

    def _step(self) -> None:
        plan = self._scheduler.schedule()
        load = StepLoad.of(plan)
        waiting = self._time_model.waiting_seconds(load)
        self._swap_seconds += waiting
        self.now += self._time_model.compute_seconds(load) + waiting
        self._scheduler.account(plan)
        for chunk in plan.chunks:
            if chunk.ends_sequence:
                self._advance(chunk.sequence)

    def _advance(self, sequence: Sequence) -> None:
        sequence.token_ids.append(ANY_TOKEN)
        name = sequence.request_id
        self._first_tokens.setdefault(name, self.now)
        if sequence.num_completion_tokens < self._lengths[name]:
            return
        self._scheduler.remove(name)
        self._outcomes.append(
            Outcome(
                arrived=sequence.arrived_at,
                first_token=self._first_tokens.pop(name),
                finished=self.now,
                num_completion_tokens=self._lengths.pop(name),
                num_preemptions=sequence.num_preemptions,
                share_key=sequence.share_key,
            )
        )
