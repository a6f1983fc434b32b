"""What offload saves and costs on this machine: memory of a worker and seconds of a step, with two workers.

Trains a GPT-2 of 16.9 million parameters with ZeRO-3 for a few steps: states in memory, offloaded to host memory by
DeepSpeed, and in files on a disk. Memory is what a worker really has to itself (RssAnon, every 2 ms, the highest),
less what it had before the model was built; pages of mapped files, which the kernel takes back when memory is short,
are a column of their own.

    python -m benchmarks.offload [--folder FOLDER] [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import socket
import statistics
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.common import Figure, make_parser, report
from fastserve_ray.spec import TrainSpec

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

CONFIG: dict[str, Any] = {
    "model_type": "gpt2",
    "n_embd": 512,
    "n_layer": 4,
    "n_head": 8,
    "n_positions": 64,
    "vocab_size": 8192,
}
TASK = "text-generation"
WORKERS, ROWS, LENGTH = 2, 4, 32
WARMUP = 2
MEGABYTE = 1e6
SECONDS_BETWEEN_LOOKS = 0.002
STATUS = Path("/proc/self/status")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--folder", default=".", help="on the disk to measure")
    arguments = parser.parse_args()
    num_steps = 6 if arguments.quick else 20
    places: dict[str, dict[str, Any]] = {"none": {}, "cpu": {}, "nvme": {"offload_folder": arguments.folder}}
    rows = [{"offload": name, **measure(train_spec(num_steps, offload=name, **keys))} for name, keys in places.items()]
    report("memory and time of a worker by offload, ZeRO-3", rows, json_file=arguments.json)


def train_spec(num_steps: int, **parallel: Any) -> TrainSpec:
    keys = {"workers": WORKERS, "zero": 3, **parallel}
    return TrainSpec.model_validate({"batch_size": ROWS * WORKERS, "max_steps": num_steps, "parallel": keys})


def measure(train: TrainSpec) -> dict[str, Figure]:
    """Of rank 0, in processes of its own."""
    from torch import multiprocessing

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = multiprocessing.get_context("spawn").SimpleQueue()
    context = multiprocessing.spawn(run_rank, (train, port, results), nprocs=WORKERS, join=False)
    found: dict[str, Figure] = results.get()
    assert context is not None
    while not context.join():
        pass
    return found


def run_rank(rank: int, train: TrainSpec, port: int, results: SimpleQueue[Any]) -> None:
    import torch
    import torch.distributed as dist
    from transformers import AutoConfig, AutoModelForCausalLM

    from fastserve_ray.tasks.table import load_task
    from fastserve_ray.training.strategies.offload import refuse_unavailable
    from fastserve_ray.training.strategies.protocol import MicroBatch
    from fastserve_ray.training.strategies.zero import ZeroStrategy, import_deepspeed
    from fastserve_ray.training.world import World

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORKERS))  # which DeepSpeed reads
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORKERS)
    import_deepspeed("cpu")
    refuse_unavailable(train.parallel)
    before = memory()["RssAnon"]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CONFIG))
    ids = torch.randint(0, CONFIG["vocab_size"], (ROWS, LENGTH))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    strategy = ZeroStrategy()
    strategy.setup(model, train, World.of(rank, WORKERS, "cpu", train.parallel), load_task(TASK), batch)
    seconds, looks = [], Looks()
    for step in range(WARMUP + (train.max_steps or 0)):
        if step == WARMUP:
            looks.start()
        start = perf_counter()
        strategy.train_step([MicroBatch(batch, 1.0 / (ROWS * WORKERS * (LENGTH - 1)))], 1e-3)
        seconds.append(perf_counter() - start)
    looks.end()
    if rank == 0:
        results.put(
            {
                "own, highest, MB": round((looks.highest["RssAnon"] - before) / MEGABYTE),
                "own, between steps, MB": round((memory()["RssAnon"] - before) / MEGABYTE),
                "of files, highest, MB": round(looks.highest["RssFile"] / MEGABYTE),
                "step, ms": round(1000 * statistics.median(seconds[WARMUP:])),
            }
        )
    dist.barrier()
    dist.destroy_process_group()


class Looks(Thread):
    """The highest of each kind of memory while training runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = memory()
        self._is_over = Event()

    def run(self) -> None:
        while not self._is_over.wait(SECONDS_BETWEEN_LOOKS):
            self.highest = {kind: max(value, self.highest[kind]) for kind, value in memory().items()}

    def end(self) -> None:
        self._is_over.set()
        self.join()


def memory() -> dict[str, int]:
    """Bytes of this process by kind: anonymous, of files."""
    lines = [line for line in STATUS.read_text().splitlines() if line.startswith(("RssAnon", "RssFile"))]
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}


if __name__ == "__main__":
    main()
