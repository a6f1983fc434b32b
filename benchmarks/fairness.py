"""Two users of one engine, of whom one asks for far too much: what the other one gets, under ``fcfs`` and ``fair``.

Requests come in a Poisson process at 1.5 times what the engine can do; one user sends nine tenths of them. The light
user alone would take 0.15 of the engine, far less than half. Lengths are lognormal, as in `benchmarks.scheduling`,
whose engine, calibration and simulation these are.

    python -m benchmarks.fairness [--quick] [--simulate-only] [--clock wall|cpu] [--threads N] [--seconds N]
        [--json FILE]
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from benchmarks.common import Figure, make_parser, report
from benchmarks.open_loop import CLOCKS, Bench
from benchmarks.scheduling import (
    HERE,
    RECORDED,
    RECORDED_PROFILE,
    RECORDED_TIMES,
    SHAPE,
    Setting,
    calibrate,
    calibrate_simulated,
    simulate,
)
from benchmarks.workloads import lognormal, max_completion
from fastserve_ray.engines.simulation.outcome import summarize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.simulation.outcome import Arrival, Outcome

POLICIES = ("fcfs", "fair")
LOAD = 1.5
LIGHT_SHARE = 0.1
USERS = ("light", "heavy")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--simulate-only", action="store_true", help="only the machine of recorded costs")
    parser.add_argument("--seconds", type=float, default=HERE.seconds, help="in which requests come, each run")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: processor time")
    parser.add_argument("--threads", type=int, help="torch threads")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    seconds = 4.0 if args.quick else args.seconds
    rows = _simulated(replace(RECORDED, seconds=seconds))
    if not args.simulate_only:
        rows = _measured(replace(HERE, seconds=seconds), args.clock) + rows
    report("two users, one of whom sends nine tenths", rows, json_file=args.json)


def _measured(setting: Setting, clock: str) -> list[dict[str, Figure]]:
    bench = Bench(
        SHAPE,
        setting.spec,
        clock=CLOCKS[clock],
        max_model_len=setting.max_model_len,
        max_tokens=max_completion(setting.max_model_len),
    )
    load = lognormal(setting.max_model_len)
    able = calibrate(setting, bench, load)
    arrivals = _of_two_users(load.arrivals(LOAD * able.tokens_per_second, setting.seconds))
    rows = []
    for policy in POLICIES:
        rows += _rows("engine", policy, bench.run(arrivals, setting.spec_of(policy)).outcomes)
    return rows


def _simulated(setting: Setting) -> list[dict[str, Figure]]:
    load = lognormal(setting.max_model_len)
    able = calibrate_simulated(setting, RECORDED_PROFILE, RECORDED_TIMES, load)
    arrivals = _of_two_users(load.arrivals(LOAD * able.tokens_per_second, setting.seconds))
    rows = []
    for policy in POLICIES:
        rows += _rows(setting.name, policy, simulate(setting, able, policy, arrivals).outcomes)
    return rows


def _of_two_users(arrivals: Sequence[Arrival]) -> list[Arrival]:
    draw = random.Random(0)
    return [replace(arrival, share_key=USERS[draw.random() >= LIGHT_SHARE]) for arrival in arrivals]


def _rows(where: str, policy: str, outcomes: Sequence[Outcome]) -> list[dict[str, Figure]]:
    rows: list[dict[str, Figure]] = []
    for user in USERS:
        own = [outcome for outcome in outcomes if outcome.share_key == user]
        figures = summarize(own, peak_blocks=0, swap_seconds=0.0, run_seconds=0.0)
        rows.append(
            {
                "where": where,
                "policy": policy,
                "user": user,
                "requests": len(own),
                "ms/token": 1000 * figures.mean_per_token,
                "p95": 1000 * figures.p95_per_token,
                "TTFT s": figures.mean_first_token,
                "JCT s": figures.mean_completion,
                "p99 JCT s": figures.p99_completion,
            }
        )
    return rows


if __name__ == "__main__":
    main()
