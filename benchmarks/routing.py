"""Routers over replicas with prefix caches: hit rate, time to first token, and how evenly the load is spread.

The trace is Mooncake's synthetic one (FAST 2025), whose prompts are hashes of blocks of 512 tokens. It is run

- through four simulated engines at its real lengths and times: the engine's own scheduler and block pool, a GPU's
  seconds (see benchmarks/scheduling.py), and the routers' own code;
- through four real Ray Serve replicas of a tiny model, with prompts divided by 32: the end of the trace, where prompts
  have come before (of the first 400 requests one block in twenty has).

    python -m benchmarks.routing [--quick] [--traces FOLDER] [--simulate-only|--serve-only] [--requests N]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import Figure, make_parser, report
from benchmarks.routers.choosers import Ours, PowerOfTwo, RayPrefixAffinity
from benchmarks.routers.simulated import Machine, simulate
from benchmarks.routers.trace import TRACE, load
from benchmarks.scheduling import GPU_PROFILE, GPU_TIMES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.routers.choosers import Chooser
    from benchmarks.routers.trace import TraceRequest

REPLICAS = ("a", "b", "c", "d")
MACHINE = Machine(GPU_TIMES, GPU_PROFILE, cache_tokens=1_000_000, max_num_seqs=64, max_num_batched_tokens=2048)
ROUTERS: dict[str, Callable[[], Chooser]] = {
    "power of two (Ray Serve)": PowerOfTwo,
    "prefix affinity (Ray), as it comes": lambda: RayPrefixAffinity(REPLICAS, float("inf")),
    "prefix affinity (Ray), threshold 10": lambda: RayPrefixAffinity(REPLICAS, 10),
    "prefix-load": lambda: Ours(REPLICAS, MACHINE.cache_tokens, 1.5),
}
SPEEDS = (0.6, 0.8)
"""Of the trace's arrivals."""
PREFIX_AFFINITY = "benchmarks.routers.affinity:TokenAffinityRouter"
SERVED: dict[str, tuple[str, dict[str, object]]] = {
    "power of two (Ray Serve)": ("power-of-two", {}),
    "prefix affinity (Ray), as it comes": (PREFIX_AFFINITY, {}),
    "prefix affinity (Ray), threshold 10": (PREFIX_AFFINITY, {"options": {"imbalanced_threshold": 10}}),
    "prefix-load": ("prefix-load", {}),
}


def main() -> None:
    args = _arguments()
    traces = args.traces or Path(os.environ.get("FASTSERVE_SHARED", "")) / "data" / "traces"
    if not (traces / TRACE).exists():
        raise SystemExit(f"no {TRACE} in {traces}: give its folder with --traces")
    rows: list[dict[str, Figure]] = []
    if not args.serve_only:
        requests = load(traces, args.requests or (400 if args.quick else None))
        rows += _simulated(requests, (1.0,) if args.quick else SPEEDS)
    if not args.simulate_only:
        rows += _served(load(traces)[-(args.requests or (100 if args.quick else 800)) :])
    report("routers, 4 replicas", rows, json_file=args.json)


def _arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--traces", type=Path, metavar="FOLDER", help="default: $FASTSERVE_SHARED/data/traces")
    parser.add_argument("--requests", type=int, metavar="N", help="the first N of the trace; for Serve the last N")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--simulate-only", action="store_true")
    only.add_argument("--serve-only", action="store_true")
    return parser.parse_args()


def _simulated(requests: Sequence[TraceRequest], speeds: Sequence[float]) -> Iterator[dict[str, Figure]]:
    for speed in speeds:
        for name, make in ROUTERS.items():
            run = simulate(MACHINE, requests, REPLICAS, make(), speed=speed)
            yield {"replicas": "simulated GPU", "arrivals": f"x{speed:g}", "router": name, **run.row()}


def _served(requests: Sequence[TraceRequest]) -> Iterator[dict[str, Figure]]:
    import ray

    from benchmarks.routers import served

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        for name, (router, options) in SERVED.items():
            run = served.run(router, dict(options), requests, len(REPLICAS))
            yield {
                "replicas": "Serve, tiny model",
                "arrivals": f"{served.NUM_CLIENTS} clients",
                "router": name,
                **run.row(),
            }
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
