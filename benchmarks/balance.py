"""Shares of a batch by measured speed against the even split, with one of two workers slowed.

Two processes train a small Llama with DDP (or ZeRO, ``--zero``). The second one passes every micro batch ``factor - 1``
more times through a copy of the model, forward and backward, so that it needs ``factor`` times as long. Runs with
``train.balance: even`` and ``measured`` are interleaved; figures are medians over the rounds of the median step in the
second half of a run, when shares have settled. The ideal of two workers is (factor + 1) / 2.

    python -m benchmarks.balance [--quick] [--json FILE] [--zero N]
"""

from __future__ import annotations

import copy
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmarks.common import Figure, make_parser, report

if TYPE_CHECKING:
    import torch

    from fastserve_ray.tasks.protocol import LossSum

WORKERS, BATCH, TOKENS, VOCABULARY = 2, 60, 32, 256
FACTORS = (1, 2, 4)
MODES = ("even", "measured")
MODEL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": TOKENS,
}
START = "import sys; from benchmarks.balance import worker; worker(sys.argv[1:])"


def write_dataset(folder: Path) -> None:
    """Random tokens: speed does not depend on what they say."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from fastserve_ray.data.dataset import DatasetInfo, write_prepared

    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w2")), pad_token="w0")
    tokenizer.save_pretrained(folder / "tokenizer")
    random = np.random.default_rng(0)

    def table(rows: int) -> pa.Table:
        ids = random.integers(3, VOCABULARY, (rows, TOKENS)).tolist()
        return pa.table({"input_ids": pa.array(ids, pa.list_(pa.int32())), "text": ["-"] * rows})

    info = DatasetInfo(
        task="text-generation",
        label_names=None,
        num_train=BATCH * 1000,
        num_validation=2,
        max_length=TOKENS,
        pad_token_id=0,
        vocab_size=VOCABULARY,
        num_tokens=BATCH * 1000 * TOKENS,
    )
    write_prepared(folder, info, table(BATCH * 1000), table(2))


class Slowed:
    """A task that passes every batch of training more often."""

    def __init__(self, task: Any, model: torch.nn.Module, factor: int) -> None:
        self._task = task
        self._copy = copy.deepcopy(model)
        self._factor = factor

    def loss(self, model: Any, batch: Any) -> LossSum:
        import torch

        if torch.is_grad_enabled():
            for _ in range(self._factor - 1):
                self._task.loss(self._copy, batch).total.backward()
                self._copy.zero_grad(set_to_none=True)
        found: LossSum = self._task.loss(model, batch)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


def note(times: list[float], step: int, loss: float) -> None:
    times.append(perf_counter())


def worker(arguments: list[str]) -> None:
    """One of the two processes: a line for every run, of factor, mode, milliseconds of a step and shares."""
    import torch
    import torch.distributed as dist

    from fastserve_ray.spec import ModelSpec, TrainSpec
    from fastserve_ray.training.hooks import Hooks
    from fastserve_ray.training.job import TrainJob
    from fastserve_ray.training.loop import TrainingLoop
    from fastserve_ray.training.world import World

    folder, rank, rounds, steps, zero = Path(arguments[0]), *(int(value) for value in arguments[1:])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORKERS)
    for _ in range(rounds):
        for factor in FACTORS:
            for mode in MODES:
                train = TrainSpec.model_validate(
                    {
                        "max_steps": steps,
                        "batch_size": BATCH,
                        "balance": mode,
                        "parallel": {"workers": WORKERS, "zero": zero},
                    }
                )
                times: list[float] = []
                hooks = Hooks(on_step=partial(note, times))
                world = World.of(rank, WORKERS, "cpu", train.parallel)
                job = TrainJob(ModelSpec(task="text-generation", config=MODEL), train, folder)
                loop = TrainingLoop(job, world, hooks)
                if rank == 1:
                    loop.task = Slowed(loop.task, loop.model, factor)
                loop.run()
                settled = np.diff(times)[steps // 2 :]
                shares = loop.balancer.shares if loop.balancer is not None else (BATCH // WORKERS,) * WORKERS
                if rank == 0:
                    print(factor, mode, 1000 * statistics.median(settled), *shares, flush=True)
    dist.destroy_process_group()


def run(rounds: int, steps: int, zero: int) -> list[str]:
    """The lines of rank 0."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        write_dataset(Path(name))
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", START, name, str(rank), str(rounds), str(steps), str(zero)],
                env={
                    **os.environ,
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(WORKERS),
                    "OMP_NUM_THREADS": "1",
                },
                stdout=subprocess.PIPE if rank == 0 else None,
                text=True,
            )
            for rank in range(WORKERS)
        ]
        output, _ = processes[0].communicate()
        if any(process.wait() for process in processes):
            raise SystemExit("a worker failed")
    return [line for line in output.splitlines() if line.split(" ")[1:2] and line.split(" ")[1] in MODES]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--zero", type=int, default=0, choices=(0, 1, 2, 3))
    options = parser.parse_args()
    lines = [line.split() for line in run(1 if options.quick else 5, 48, options.zero)]
    rows: list[dict[str, Figure]] = []
    for factor in FACTORS:
        even, measured = (
            statistics.median(float(line[2]) for line in lines if line[:2] == [str(factor), mode]) for mode in MODES
        )
        shares = [line[3:] for line in lines if line[:2] == [str(factor), "measured"]][-1]
        rows.append(
            {
                "one worker slowed": f"{factor}x",
                "even, ms a step": even,
                "measured, ms a step": measured,
                "shares": " + ".join(shares),
                "throughput": round(even / measured, 2),
                "ideal": (factor + 1) / 2,
            }
        )
    name = f"ZeRO-{options.zero}" if options.zero else "DDP"
    report(f"two workers, {name}, batches of {BATCH} rows", rows, json_file=options.json)


if __name__ == "__main__":
    main()
