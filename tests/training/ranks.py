"""Processes that run many training jobs one after another. torch, transformers and DeepSpeed are imported once: one
process imports them, and forks the ranks."""

from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import TRAINING_MODULES

if TYPE_CHECKING:
    import torch

    from fastserve_ray.training.checkpoint.slices import Snapshot
    from fastserve_ray.training.job import TrainJob
    from fastserve_ray.training.strategies.held import HeldBytes
    from fastserve_ray.training.strategies.protocol import Strategy
    from fastserve_ray.training.world import World

NUM_RANKS = 2
TIMEOUT_SECONDS = 400
START = "import sys; from tests.training.ranks import main; main(sys.argv[1], int(sys.argv[2]))"


@dataclass(frozen=True)
class Case:
    """One training job."""

    name: str
    job: TrainJob
    resume: bool = False
    """Save at ``checkpoint.every_steps``, and train a second time from there."""
    saves: bool = False
    """Save at ``checkpoint.every_steps`` to the folder of this case."""
    shares: tuple[int, ...] | None = None
    """Rows of a batch by worker, in place of those that would be measured."""
    resume_from: Path | None = None
    """Start from the checkpoint in this folder."""
    seconds_per_row: float = 0.0
    """The last rank sleeps so long for each row of training."""


@dataclass(frozen=True)
class Outcome:
    """What rank 0 saw."""

    losses: list[float]
    metrics: dict[str, float]
    weights: dict[str, Any]
    resumed_weights: dict[str, Any] | None
    error: Exception | None
    replicas_agree: bool = True
    """Whether parameters that several ranks hold whole have the same bits everywhere."""
    shares: tuple[int, ...] | None = None
    """Rows of a batch by worker at the end, where they are measured."""
    held: HeldBytes | None = None
    """Of the rank that held the most in the second step."""
    mapped: int = 0
    """Bytes of files in ``offload_folder`` that rank 0 has mapped, as the kernel says."""


def run_ranks(folder: Path, cases: list[Case], num_ranks: int = NUM_RANKS) -> dict[str, Outcome]:
    """Outcomes by case name; every case takes ``num_ranks`` ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.pickle").write_bytes(pickle.dumps(cases))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(folder), str(num_ranks)],
        env={**os.environ, **environment, "WORLD_SIZE": str(num_ranks)},
        start_new_session=True,
    )
    try:
        code = process.wait(TIMEOUT_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and the ranks
    logs = "\n".join(path.read_text()[-4000:] for path in sorted(folder.glob("log-*.txt")))
    assert code == 0, logs
    outcomes: dict[str, Outcome] = pickle.loads((folder / "result.pickle").read_bytes())
    return outcomes


def main(path: str, num_ranks: int) -> None:
    """The process that becomes all ranks."""
    for name in TRAINING_MODULES:
        importlib.import_module(name)
    forking = multiprocessing.get_context("fork")
    ranks = [forking.Process(target=run_rank, args=(Path(path), rank, num_ranks)) for rank in range(num_ranks)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    sys.exit(int(any(rank.exitcode for rank in ranks)))


def run_rank(folder: Path, rank: int, num_ranks: int) -> None:
    """In each process: reads ``cases.pickle``; rank 0 writes ``result.pickle``."""
    import torch
    import torch.distributed as dist

    from fastserve_ray.errors import ModelError
    from fastserve_ray.training.world import World

    log = (folder / f"log-{rank}.txt").open("w")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    cases: list[Case] = pickle.loads((folder / "cases.pickle").read_bytes())
    outcomes = {}
    for case in cases:
        world = World.of(rank, num_ranks, "cpu", case.job.train.parallel)
        outcomes[case.name] = run_case(case, world, folder / case.name)
    error = World(rank, num_ranks).first_error(ModelError("of rank 1") if rank == 1 else None)
    outcomes["first error"] = Outcome([], {}, {}, None, error)
    if rank == 0:
        (folder / "result.pickle").write_bytes(pickle.dumps(outcomes))
    dist.barrier()
    dist.destroy_process_group()


def run_case(case: Case, world: World, folder: Path) -> Outcome:
    from fastserve_ray.errors import FastServeError
    from fastserve_ray.training.hooks import Hooks
    from fastserve_ray.training.loop import TrainingLoop

    losses: list[float] = []
    hooks = Hooks(
        on_step=lambda step, loss: losses.append(loss),
        on_checkpoint=partial(save_parts, folder) if case.resume or case.saves else None,
        resume_from=case.resume_from,
    )
    try:
        loop = TrainingLoop(case.job, world, hooks)
        if case.shares is not None and loop.balancer is not None:
            loop.balancer.shares = case.shares
        if case.seconds_per_row and world.rank == world.size - 1:
            loop.task = SlowTask(loop.task, case.seconds_per_row)
        scales = Scales(loop.strategy, loop.model)
        result = loop.run()
    except FastServeError as error:
        return Outcome(losses, {}, {}, None, error)
    mapped = mapped_bytes(case.job.train.parallel.offload_folder)
    resumed = None
    if case.resume:
        resumed = TrainingLoop(case.job, world, Hooks(resume_from=folder)).run().state_dict
    agree = replicas_agree(loop.model)
    shares = None if loop.balancer is None else loop.balancer.shares
    return Outcome(losses, result.metrics, result.state_dict or {}, resumed, None, agree, shares, scales.most(), mapped)


def mapped_bytes(folder: str | None) -> int:
    """Of files in ``folder``, with a name or without, in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines() if folder else []
    ranges = (line.split()[0].split("-") for line in lines if f" {folder}/" in line)
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)


class Scales:
    """Weigh what this rank holds in its second step, the first with a whole optimizer state."""

    def __init__(self, strategy: Strategy, model: torch.nn.Module) -> None:
        watched: Any = strategy
        self._strategy = strategy
        self._train_step = strategy.train_step
        self._model = model
        self._steps = 0
        self._held: HeldBytes | None = None
        watched.train_step = self._step

    def _step(self, *arguments: Any) -> float:
        from benchmarks.train_memory import most_held

        self._steps += 1
        if self._steps != 2:
            return self._train_step(*arguments)
        losses: list[float] = []
        self._held = most_held(self._strategy, self._model, lambda: losses.append(self._train_step(*arguments)))
        return losses[0]

    def most(self) -> HeldBytes | None:
        """Of all ranks, which call it together."""
        import torch.distributed as dist

        every: list[HeldBytes | None] = [None] * dist.get_world_size()
        dist.all_gather_object(every, self._held)
        return max((held for held in every if held is not None), key=lambda held: held.total, default=None)


class SlowTask:
    """A task on a slow machine."""

    def __init__(self, task: Any, seconds_per_row: float) -> None:
        self._task = task
        self._seconds_per_row = seconds_per_row

    def loss(self, model: Any, batch: Any) -> Any:
        time.sleep(self._seconds_per_row * len(batch["input_ids"]))
        return self._task.loss(model, batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


def replicas_agree(model: torch.nn.Module) -> bool:
    """Of parameters that are not cut, on the ranks that hold them; all ranks call it."""
    import torch.distributed as dist

    from fastserve_ray.training.tensor.norm import is_cut

    own = {
        name: hashlib.sha256(parameter.detach().float().numpy().tobytes()).hexdigest()
        for name, parameter in model.named_parameters()
        if not is_cut(parameter) and not parameter.is_meta
    }
    every: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(every, own)
    return all(other.get(name, digest) == digest for name, digest in own.items() for other in every)


def save_parts(folder: Path, step: int, snapshot: Snapshot) -> None:
    """Every rank writes its part."""
    import torch.distributed as dist

    snapshot.write_folder(folder)
    dist.barrier()
