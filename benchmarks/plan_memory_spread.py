"""The memory estimate of ``plan`` against the measured peak where training is spread over ranks.

Like ``benchmarks.plan_memory``, on two or four processes of this machine that exchange through gloo. "peak" is that of
the rank that has the most, from before its model is built until the weights are gathered at the end.

    python -m benchmarks.plan_memory_spread [--quick] [--json FILE]
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import operator
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import TRAINING_MODULES, Figure, make_parser, report
from benchmarks.plan_memory import (
    CASES,
    MIB,
    NO_DROPOUT,
    Case,
    allocated_peak,
    bert,
    estimate,
    gpt2,
    llama,
    write_dataset,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.queues import SimpleQueue

    import torch

SPREADS: dict[str, dict[str, Any]] = {
    "tensor 2": {"tensor": 2},
    "tensor 4": {"tensor": 4},
    "pipeline 2": {"pipeline": 2},
    "DDP": {"workers": 2},
    "ZeRO-1": {"workers": 2, "zero": 1},
    "ZeRO-2": {"workers": 2, "zero": 2},
    "ZeRO-3": {"workers": 2, "zero": 3},
    "tensor 2 x pipeline 2": {"tensor": 2, "pipeline": 2},
    "tensor 2 x ZeRO-2": {"tensor": 2, "workers": 2, "zero": 2},
    "tensor 2 x ZeRO-3": {"tensor": 2, "workers": 2, "zero": 3},
}
NAMES = (
    "gpt2, no dropout",
    "gpt2, dropout",
    "gpt2, large vocabulary",
    "gpt2, checkpointing",
    "llama",
    "llama, checkpointing",
    "bert",
    "bert, no dropout",
    "bert, checkpointing",
)
WIDE = (
    Case("gpt2, wide", gpt2(512, 4, 2000, **NO_DROPOUT), 64, 2),
    Case("llama, wide", llama(512, 4, 2000), 64, 2),
    Case("bert, wide", bert(512, 4, 2000), 64, 2),
)
"""Models whose states are more than their activations."""
STEPS = 2
TIMEOUT_S = 500


def spread(case: Case, name: str) -> Case:
    """``case`` with the same micro batch, spread as ``SPREADS[name]`` says; two micro batches go through a pipeline."""
    parallel = SPREADS[name]
    return replace(
        case,
        name=f"{name}: {case.name}",
        train={**case.train, "parallel": parallel, "max_steps": STEPS},
        accumulation=case.accumulation * parallel.get("pipeline", 1),
    )


def num_ranks(case: Case) -> int:
    parallel = case.train["parallel"]
    return int(parallel.get("workers", 1) * parallel.get("tensor", 1) * parallel.get("pipeline", 1))


def measure(cases: Sequence[Case]) -> dict[str, int]:
    """Bytes by the name of the case, measured in processes of their own.

    Raises:
        RuntimeError: a rank failed; with what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.plan_memory_spread", "--cases", "-"],
        input=json.dumps([asdict(case) for case in cases]),
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    peaks: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def measure_here(cases: Sequence[Case]) -> dict[str, int]:
    """Fork the ranks of this process."""
    for name in TRAINING_MODULES:
        importlib.import_module(name)
    context = multiprocessing.get_context("fork")
    peaks: dict[str, int] = {}
    for ranks in sorted(set(map(num_ranks, cases))):
        results = context.SimpleQueue()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        chosen = [case for case in cases if num_ranks(case) == ranks]
        group = [context.Process(target=run_rank, args=(rank, ranks, port, chosen, results)) for rank in range(ranks)]
        for process in group:
            process.start()
        _wait(group)
        peaks |= results.get()
    return peaks


def _wait(group: Sequence[Any]) -> None:
    """Until all have ended; when one has failed, the others would wait for it."""
    deadline = time.monotonic() + TIMEOUT_S
    while any(process.is_alive() for process in group):
        if any(process.exitcode for process in group) or time.monotonic() > deadline:
            for process in group:
                process.kill()
        time.sleep(0.05)
    codes = [process.exitcode for process in group]
    if any(codes):
        raise SystemExit(f"exit codes of the ranks: {codes}")


def run_rank(rank: int, ranks: int, port: int, cases: Sequence[Case], results: SimpleQueue[dict[str, int]]) -> None:
    """Rank 0 hands back the peaks."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))  # which DeepSpeed reads
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    store = dist.TCPStore("127.0.0.1", port, ranks, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    free_in_turn()
    peaks = {}
    for case in cases:
        found = torch.tensor(peak_of(case, rank, ranks))
        dist.all_reduce(found, dist.ReduceOp.MAX)
        peaks[case.name] = int(found)
        if rank == 0:
            print(f"{case.name}: {int(found) / MIB:.1f} MiB", file=sys.stderr, flush=True)
    if rank == 0:
        results.put(peaks)
    dist.barrier()
    dist.destroy_process_group()


def peak_of(case: Case, rank: int, ranks: int) -> int:
    """Bytes of this rank."""
    import torch

    from fastserve_ray.spec.load import spec_from_dict
    from fastserve_ray.training.job import TrainJob
    from fastserve_ray.training.loop import TrainingLoop
    from fastserve_ray.training.world import World

    spec = spec_from_dict(case.spec())
    assert spec.train is not None
    world = World.of(rank, ranks, "cpu", spec.train.parallel)
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        job = TrainJob(spec.model, spec.train, write_dataset(Path(folder), case, rows=spec.train.batch_size))
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
            TrainingLoop(job, world).run()
    return allocated_peak(profiler)


def free_in_turn() -> None:
    """From here on, exchanges of this process return when gloo's threads have let go of the tensors.

    A thread drops what it has exchanged some moments after the exchange is over. When it is the last to hold a tensor,
    the profiler does not see that the memory is free.
    """
    import torch.distributed as dist

    for name in ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce", "reduce_scatter_tensor"):
        setattr(dist, name, _patient(getattr(dist, name)))


def _patient(exchange: Callable[..., Any]) -> Callable[..., Any]:
    """Gives gloo other tensors over the same memory, and waits until the memory has as many owners as before."""

    def call(*args: Any, **kwargs: Any) -> Any:
        given = [tensor for value in (*args, *kwargs.values()) for tensor in _flat(value)]
        before = list(map(_owners, given))
        result = exchange(*map(_alias, args), **{name: _alias(value) for name, value in kwargs.items()})
        deadline = time.monotonic() + TIMEOUT_S
        while result is None and any(map(operator.gt, map(_owners, given), before)) and time.monotonic() < deadline:
            time.sleep(0)
        return result

    return call


def _flat(value: Any) -> list[torch.Tensor]:
    import torch

    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, torch.Tensor)]


def _alias(value: Any) -> Any:
    import torch

    if isinstance(value, list):
        return list(map(_alias, value))
    return value.detach() if isinstance(value, torch.Tensor) else value


def _owners(tensor: torch.Tensor) -> int:
    import torch

    return int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cases", help="measure the cases that standard input has as JSON")
    arguments = parser.parse_args()
    if arguments.cases:
        print(json.dumps(measure_here([Case(**case) for case in json.load(sys.stdin)])))
        return
    models = [case for case in CASES if case.name in NAMES] + list(WIDE)
    spreads = ("tensor 2",) if arguments.quick else SPREADS
    cases = [spread(case, name) for name in spreads for case in models]
    peaks = measure(cases)
    rows: list[dict[str, Figure]] = [
        {
            "spread: model": case.name,
            "batch": f"{case.micro_batch} x {case.length}",
            "estimate MiB": estimate(case) / MIB,
            "peak MiB": peaks[case.name] / MIB,
            "estimate / peak": estimate(case) / peaks[case.name],
        }
        for case in cases
    ]
    report("memory of the fullest rank: estimate and measured peak", rows, json_file=arguments.json)


if __name__ == "__main__":
    main()
