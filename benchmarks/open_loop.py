"""Drives the real engine with requests that come when they come, and times each of them."""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.engine import Shape, tokenizer_for
from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
from fastserve_ray.engines.simulation.outcome import Outcome, Summary, summarize
from fastserve_ray.engines.simulation.time_model import StepLoad
from fastserve_ray.engines.torch.block_pool import BlockPool
from fastserve_ray.engines.torch.engine import TorchEngine
from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE
from fastserve_ray.engines.torch.policies import make_policy
from fastserve_ray.engines.torch.runner import Runner, adopt, measure_profile
from fastserve_ray.engines.torch.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from fastserve_ray.engines.simulation.outcome import Arrival
    from fastserve_ray.engines.torch.profile import Profile
    from fastserve_ray.engines.torch.scheduler import Chunk, StepPlan
    from fastserve_ray.engines.torch.sequence import Sequence
    from fastserve_ray.spec.serve import EngineSpec


class WallClock:
    """Seconds from its making."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._begin

    def wait_until(self, then: float) -> None:
        time.sleep(max(0.0, then - self.now()))


class CpuClock:
    """Processor seconds of this process, all threads together; waiting is skipped.

    For machines that others use too: what they take from this process does not count, so runs can be compared. It is
    the wall's clock where the engine has one thread and the machine to itself.
    """

    def __init__(self) -> None:
        self._begin = time.process_time()

    def now(self) -> float:
        return time.process_time() - self._begin

    def wait_until(self, then: float) -> None:
        self._begin -= max(0.0, then - self.now())


Clock = WallClock | CpuClock
CLOCKS: dict[str, type[Clock]] = {"wall": WallClock, "cpu": CpuClock}


class NotingRunner(Runner):
    """Remembers what the last step read."""

    load = StepLoad(0, 0, 0)

    def run(self, plan: StepPlan) -> tuple[list[Chunk], torch.Tensor]:
        self.load = StepLoad.of(plan)
        return super().run(plan)


@dataclass(frozen=True)
class MeasuredRun:
    """What one run of the engine showed."""

    outcomes: tuple[Outcome, ...]
    """Of what was completed, in that order."""
    steps: tuple[tuple[StepLoad, float], ...]
    """What each step read, and its seconds, scheduling and sampling included."""
    num_tokens: int
    """Completion tokens of all requests."""
    seconds: float
    summary: Summary | None
    """None when nothing was completed."""


class Bench:
    """One model and its runner; every run gets a scheduler and a policy of its own.

    Args:
        clock: what tells the time, to the engine's policy too.
        max_model_len: tokens of a request at most.
        max_tokens: what every request allows for its completion. Policies see only that: a run takes a request away
            when its completion is as long as the workload says.
    """

    def __init__(
        self, shape: Shape, spec: EngineSpec, *, clock: type[Clock], max_model_len: int, max_tokens: int
    ) -> None:
        assert spec.kv_cache_tokens is not None
        self._spec, self._clock = spec, clock
        self._max_model_len, self._max_tokens = max_model_len, max_tokens
        self._vocab_size = shape.vocab_size
        self._model: Any = shape.build(max_model_len)
        self._tokenizer = tokenizer_for(shape.vocab_size)
        layers = adopt(self._model)
        self._runner = NotingRunner(self._model, layers, spec.kv_cache_tokens, spec.kv_host_tokens)
        self.profile: Profile = measure_profile(self._runner, spec.max_num_batched_tokens)

    def run(
        self,
        arrivals: Iterable[Arrival],
        spec: EngineSpec,
        *,
        knows_lengths: bool = False,
        stop_after: float = float("inf"),
        max_open: int | None = None,
    ) -> MeasuredRun:
        """Until all of ``arrivals`` have ended, or for ``stop_after`` seconds.

        Args:
            max_open: a closed loop: requests come when fewer than so many are here.
        """
        clock = self._clock()
        scheduler = self._scheduler(spec, clock)
        run = _Run(self._engine(scheduler), scheduler, self._runner, clock)
        to_come = deque(
            (arrival, self._request(number, arrival, knows_lengths)) for number, arrival in enumerate(arrivals)
        )
        while (to_come or run.engine.has_work()) and clock.now() < stop_after:
            while to_come and to_come[0][0].at <= clock.now() and (max_open is None or run.num_open < max_open):
                run.add(*to_come.popleft())
            if run.engine.has_work():
                run.step()
            else:
                clock.wait_until(to_come[0][0].at)
        return run.finish()

    def _scheduler(self, spec: EngineSpec, clock: Clock) -> Scheduler:
        assert spec.kv_cache_tokens is not None
        host_blocks = spec.kv_host_tokens // BLOCK_SIZE
        return Scheduler(
            make_policy(spec.scheduler, self.profile),
            BlockPool(spec.kv_cache_tokens // BLOCK_SIZE, BLOCK_SIZE),
            BlockPool(host_blocks, BLOCK_SIZE) if host_blocks else None,
            max_num_seqs=spec.max_num_seqs,
            max_num_batched_tokens=spec.max_num_batched_tokens,
            shares_prefixes=spec.prefix_caching,
            clock=clock.now,
        )

    def _engine(self, scheduler: Scheduler) -> TorchEngine:
        return TorchEngine(
            self._model,
            self._tokenizer,
            scheduler=scheduler,
            runner=self._runner,
            max_model_len=self._max_model_len,
            max_num_waiting=self._spec.max_num_waiting,
        )

    def _request(self, number: int, arrival: Arrival, knows_lengths: bool) -> GenerateRequest:
        draw = random.Random(number)
        return GenerateRequest(
            str(number),
            tuple(draw.randrange(1, self._vocab_size) for _ in range(arrival.num_prompt_tokens)),
            SamplingParams(max_tokens=self._max_tokens, temperature=0, ignore_eos=True),
            priority=arrival.priority,
            share_key=arrival.share_key,
            expected_tokens=arrival.num_completion_tokens if knows_lengths else None,
        )


class _Run:
    """The notes of one run."""

    def __init__(self, engine: TorchEngine, scheduler: Scheduler, runner: NotingRunner, clock: Clock) -> None:
        self.engine = engine
        self._scheduler, self._runner, self._clock = scheduler, runner, clock
        self._open: dict[str, tuple[Arrival, Sequence]] = {}
        self._first_tokens: dict[str, float] = {}
        self._outcomes: list[Outcome] = []
        self._steps: list[tuple[StepLoad, float]] = []
        self._num_tokens = 0
        self._swapping_before = runner.seconds_swapping

    @property
    def num_open(self) -> int:
        """Requests that are here."""
        return len(self._open)

    def add(self, arrival: Arrival, request: GenerateRequest) -> None:
        self.engine.add_request(request)
        self._open[request.request_id] = arrival, self._scheduler.sequences[request.request_id]

    def step(self) -> None:
        begin = self._clock.now()
        deltas = self.engine.step()
        now = self._clock.now()
        self._steps.append((self._runner.load, now - begin))
        for delta in deltas:
            self._num_tokens += 1
            self._first_tokens.setdefault(delta.request_id, now)
            if delta.num_completion_tokens == self._open[delta.request_id][0].num_completion_tokens:
                self._end(delta.request_id, now)

    def finish(self) -> MeasuredRun:
        seconds, outcomes = self._clock.now(), tuple(self._outcomes)
        swap_seconds = self._runner.seconds_swapping - self._swapping_before
        for name in list(self._open):
            self.engine.cancel(name)
        summary = None
        if outcomes:
            peak = self._scheduler.counts.peak_used_blocks
            summary = summarize(outcomes, peak_blocks=peak, swap_seconds=swap_seconds, run_seconds=seconds)
        return MeasuredRun(outcomes, tuple(self._steps), self._num_tokens, seconds, summary)

    def _end(self, name: str, now: float) -> None:
        arrival, sequence = self._open.pop(name)
        self.engine.cancel(name)
        self._outcomes.append(
            Outcome(
                arrival.at,
                self._first_tokens.pop(name),
                now,
                arrival.num_completion_tokens,
                sequence.num_preemptions,
                arrival.share_key,
            )
        )
