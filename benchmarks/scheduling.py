"""Scheduling policies on one engine and machine, open-loop, beside a simulation of the same runs.

Requests come in a Poisson process at 0.7, 0.9 and 1.1 of what the engine can do, which is measured first: output tokens
a second of a full batch, first come, first served. Lengths are those of public traces, scaled to a small model, and
of a heavy-tailed lognormal. Every policy gets the same requests at the same times; only "srpt" knows lengths before, as
an oracle. The simulation takes the same arrivals, the engine's scheduler and a time model fitted to measured steps.
Two more machines are simulated: the CPU as it was measured once, and a GPU with the traces' real lengths and costs made
by arithmetic.

Every repeat measures the capacity anew and draws other arrival times; figures are medians over the repeats, and ratios
medians of what each repeat gave, with the smallest and the largest beside.

    python -m benchmarks.scheduling [--quick] [--traces FOLDER] [--only NAME] [--simulate-only|--engine-only]
        [--loads N,N] [--repeats N] [--clock wall|cpu] [--threads N] [--seconds N] [--json FILE]
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from benchmarks.common import Figure, make_parser, report
from benchmarks.engine import SHAPES
from benchmarks.open_loop import CLOCKS, Bench, Clock, MeasuredRun
from benchmarks.workloads import TRACES, Workload, lognormal, max_completion
from fastserve_ray.engines.simulation.simulator import SimulatedRun, Simulator
from fastserve_ray.engines.simulation.time_model import TimeModel
from fastserve_ray.engines.torch.profile import Profile
from fastserve_ray.spec.serve import EngineSpec, SchedulerSpec

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from fastserve_ray.engines.simulation.outcome import Arrival, Summary

POLICIES = ("fcfs", "skip-join-mlfq", "srpt")
LOADS = (0.7, 0.9, 1.1)
SHAPE = SHAPES[1]
NUM_SATURATING = 2000
"""Requests when capacity is measured: more than are served meanwhile."""
NUM_OPEN = 4
"""Of which are there at once, times ``max_num_seqs``: always some that wait, and no more, since thousands of waiting
requests take time to put in order, in every step."""


@dataclass(frozen=True)
class Setting:
    """What is served, where, and for how long."""

    name: str
    spec: EngineSpec
    max_model_len: int
    seconds: float
    """In which requests come; a run lasts until all of them have ended."""
    calibration_seconds: float = 0.0
    """With a full batch; a simulated machine needs none."""
    loads: tuple[float, ...] = LOADS

    def spec_of(self, policy: str) -> EngineSpec:
        return self.spec.model_copy(update={"scheduler": SchedulerSpec(policy=policy)})

    def workloads(self, traces: Path | None, only: str | None) -> list[Workload]:
        loads = [lognormal(self.max_model_len)]
        if traces is not None:
            loads += [load(traces, self.max_model_len) for load in TRACES.values()]
        return [load for load in loads if only is None or only in load.name]


HERE = Setting(
    "this machine",
    EngineSpec(max_num_seqs=16, max_num_batched_tokens=256, kv_cache_tokens=8192, kv_host_tokens=16384),
    max_model_len=1024,
    seconds=20,
    calibration_seconds=8,
)
"""The cache holds half of what 16 of the longest requests need, so that preempted ones must move to the host."""
GPU = Setting(
    "GPU, 8B, simulated",
    EngineSpec(
        max_num_seqs=64,
        max_num_batched_tokens=2048,
        kv_cache_tokens=400_000,
        kv_host_tokens=800_000,
        prefix_caching=False,
    ),
    max_model_len=8192,
    seconds=300,
)
GPU_TIMES = TimeModel(fixed=0.0080, row=0.00003, prompt_token=0.0001, context_token=6.6e-8, swapped_block=0.0001)
"""A model of 8.0e9 parameters in bf16 with 8 KV heads of 128 in 32 layers, on a card with 2.0 TB/s, 312 TFLOP/s and
PCIe of 20 GB/s, by arithmetic: weights 16 GB a step; 1.6e10 operations a prompt token at half of the peak, and a row of
decoding at what hides behind the reading of weights; keys and values of 131 KB a token; a block of 16 tokens 2.1 MB."""
GPU_PROFILE = Profile(prefill=((16, 0.0096), (2048, 0.2128)), decode_seconds=0.00803)


RECORDED = replace(HERE, name="CPU, 2M, simulated", seconds=60)
RECORDED_TIMES = TimeModel(fixed=0.00194, row=0.000198, prompt_token=0.0000462, context_token=4.9e-7)
RECORDED_PROFILE = Profile(prefill=((16, 0.00234), (128, 0.00712)), decode_seconds=0.00208)
"""As measured for `HERE` on one core of an AMD EPYC that others used too, so that the table can be made anywhere."""
SIMULATED = ((RECORDED, RECORDED_PROFILE, RECORDED_TIMES), (GPU, GPU_PROFILE, GPU_TIMES))


@dataclass(frozen=True)
class Calibration:
    """What a machine can do with a workload."""

    profile: Profile
    times: TimeModel
    tokens_per_second: float
    """Completion tokens, first come, first served, with a full batch."""


def main() -> None:
    args = _arguments()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    traces = _traces(args.traces)
    here, simulated = HERE, list(SIMULATED)
    if args.seconds is not None:
        here = replace(here, seconds=args.seconds)
    if args.quick:
        here = replace(here, seconds=4, calibration_seconds=3, loads=(1.1,))
        simulated = [
            (replace(setting, seconds=60, loads=(1.1,)), profile, times) for setting, profile, times in simulated
        ]
    if args.loads is not None:
        here = replace(here, loads=args.loads)
        simulated = [(replace(setting, loads=args.loads), profile, times) for setting, profile, times in simulated]
    rows = []
    if not args.simulate_only:
        rows += _rows_here(here, CLOCKS[args.clock], traces, args.only, repeats=args.repeats)
    for setting, profile, times in () if args.engine_only else simulated:
        for load in setting.workloads(traces, args.only):
            rows += _rows_simulated(setting, profile, times, load, repeats=args.repeats)
    report("scheduling policies, open-loop", rows, json_file=args.json)


def _arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--traces", type=Path, metavar="FOLDER", help="default: $FASTSERVE_SHARED/data/traces")
    parser.add_argument("--only", metavar="NAME", help="workloads whose name has this in it")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--simulate-only", action="store_true", help="only machines of recorded or computed costs")
    where.add_argument("--engine-only", action="store_true", help="only this machine, and its own simulation")
    parser.add_argument("--loads", type=_loads, help="of capacity, with commas between; default 0.7,0.9,1.1")
    parser.add_argument("--repeats", type=int, default=1, help="of every run")
    parser.add_argument("--seconds", type=float, help=f"in which requests come, each run; default {HERE.seconds}")
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu: processor time, on a machine that others use too"
    )
    parser.add_argument("--threads", type=int, help="torch threads")
    return parser.parse_args()


def _loads(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _traces(folder: Path | None) -> Path | None:
    """The folder with the traces; None, and said so, when it is not there."""
    if folder is None and "FASTSERVE_SHARED" in os.environ:
        folder = Path(os.environ["FASTSERVE_SHARED"]) / "data" / "traces"
    if folder is not None and folder.is_dir():
        return folder
    print(f"did not run: {', '.join(TRACES)}; no folder of traces (--traces, now {folder})")
    return None


def _rows_here(
    setting: Setting, clock: type[Clock], traces: Path | None, only: str | None, *, repeats: int
) -> list[dict[str, Figure]]:
    max_tokens = max_completion(setting.max_model_len)
    bench = Bench(SHAPE, setting.spec, clock=clock, max_model_len=setting.max_model_len, max_tokens=max_tokens)
    rows = []
    for load in setting.workloads(traces, only):
        for factor in setting.loads:
            engine, simulation = [], []
            for repeat in range(repeats):
                able = calibrate(setting, bench, load)
                print(f"{load.name} {factor}: {able.tokens_per_second:.0f} tokens/s; {able.times}", flush=True)
                arrivals = load.arrivals(factor * able.tokens_per_second, setting.seconds, seed=repeat)
                engine.append({policy: _measure(setting, bench, policy, arrivals) for policy in _turned(repeat)})
                simulation.append({policy: simulate(setting, able, policy, arrivals).summary for policy in POLICIES})
            rows += _rows(load.name, factor, "engine", engine)
            rows += _rows(load.name, factor, "simulation", simulation)
    return rows


def _turned(repeat: int) -> tuple[str, ...]:
    """The policies, another one first in every repeat."""
    first = repeat % len(POLICIES)
    return POLICIES[first:] + POLICIES[:first]


def calibrate(setting: Setting, bench: Bench, load: Workload) -> Calibration:
    """Capacity with a full batch; the time model from smaller ones too, since one size does not tell a row's cost."""
    spec = setting.spec_of("fcfs")
    requests = load.at_once(NUM_SATURATING)
    num_open = NUM_OPEN * spec.max_num_seqs
    run = bench.run(requests, spec, stop_after=setting.calibration_seconds, max_open=num_open)
    steps = list(run.steps)
    for num_seqs in (1, spec.max_num_seqs // 4):
        small = spec.model_copy(update={"max_num_seqs": num_seqs})
        steps += bench.run(requests, small, stop_after=setting.calibration_seconds / 4, max_open=num_open).steps
    return Calibration(bench.profile, TimeModel.fit(steps), run.num_tokens / run.seconds)


def _measure(setting: Setting, bench: Bench, policy: str, arrivals: Sequence[Arrival]) -> Summary:
    run: MeasuredRun = bench.run(arrivals, setting.spec_of(policy), knows_lengths=policy == "srpt")
    assert run.summary is not None
    return run.summary


def _rows_simulated(
    setting: Setting, profile: Profile, times: TimeModel, load: Workload, *, repeats: int
) -> list[dict[str, Figure]]:
    able = calibrate_simulated(setting, profile, times, load)
    rows = []
    for factor in setting.loads:
        runs = []
        for repeat in range(repeats):
            arrivals = load.arrivals(factor * able.tokens_per_second, setting.seconds, seed=repeat)
            runs.append({policy: simulate(setting, able, policy, arrivals).summary for policy in POLICIES})
        rows += _rows(load.name, factor, setting.name, runs)
    return rows


def calibrate_simulated(setting: Setting, profile: Profile, times: TimeModel, load: Workload) -> Calibration:
    able = Calibration(profile, times, 0.0)
    run = simulate(setting, able, "fcfs", load.at_once(NUM_SATURATING // 4))
    last_begun = max(outcome.first_token for outcome in run.outcomes)
    num_tokens = sum(
        outcome.num_completion_tokens * _share_before(outcome.first_token, outcome.finished, last_begun)
        for outcome in run.outcomes
    )
    return replace(able, tokens_per_second=num_tokens / last_begun)


def _share_before(begin: float, end: float, time: float) -> float:
    """Of [begin, end], what lies before ``time``."""
    return 1.0 if end <= time else (time - begin) / (end - begin)


def simulate(setting: Setting, able: Calibration, policy: str, arrivals: Sequence[Arrival]) -> SimulatedRun:
    simulator = Simulator(
        setting.spec_of(policy),
        able.profile,
        able.times,
        max_tokens=max_completion(setting.max_model_len),
        knows_lengths=policy == "srpt",
    )
    return simulator.run(arrivals)


def _rows(workload: str, load: float, where: str, runs: Sequence[dict[str, Summary]]) -> list[dict[str, Figure]]:
    """One row a policy over all repeats."""
    rows: list[dict[str, Figure]] = []
    for policy in POLICIES:
        own, first = [run[policy] for run in runs], [run["fcfs"] for run in runs]
        pairs = list(zip(own, first, strict=True))
        gains = [base.mean_per_token / s.mean_per_token for s, base in pairs]
        completions = [s.mean_completion / base.mean_completion for s, base in pairs]
        rows.append(
            {
                "workload": workload,
                "load": load,
                "where": where,
                "policy": policy,
                "requests": sum(s.num_requests for s in own),
                "ms/token": 1000 * median(s.mean_per_token for s in own),
                "p95": 1000 * median(s.p95_per_token for s in own),
                "fcfs / this": median(gains),
                "from, to": _range(gains),
                "TTFT s": median(s.mean_first_token for s in own),
                "JCT s": median(s.mean_completion for s in own),
                "of fcfs": median(completions),
                "from, to ": _range(completions),
                "p99 JCT s": median(s.p99_completion for s in own),
                "of fcfs ": median(s.p99_completion / base.p99_completion for s, base in pairs),
                "preempted": median(s.preemptions_per_request for s in own),
                "peak blocks": max(s.peak_blocks for s in own),
                "swaps %": 100 * median(s.swap_share for s in own),
            }
        )
    return rows


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3g}, {max(values):.3g}"


if __name__ == "__main__":
    main()
