"""What a rank holds of weights, gradients, master copies and optimizer state, against what ``plan`` says.

Trains a GPT-2 of 4.2 million parameters for two steps with every strategy, on two or four processes of this machine.
What is held is added up tensor by tensor before the second update, so it is the same on any machine. Figures are
megabytes of rank 0.

    python -m benchmarks.train_memory [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.common import Figure, make_parser, report
from fastserve_ray.plan.memory import training_states
from fastserve_ray.plan.model_size import ModelSize, model_size
from fastserve_ray.plan.pipeline import stage_sizes, stage_states
from fastserve_ray.spec import ModelSpec, TrainSpec

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    from fastserve_ray.plan.peak import States

CONFIG: dict[str, Any] = {
    "model_type": "gpt2",
    "n_embd": 256,
    "n_layer": 4,
    "n_head": 8,
    "n_positions": 128,
    "vocab_size": 4096,
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "DDP": {"workers": 2},
    "ZeRO-1": {"workers": 2, "zero": 1},
    "ZeRO-2": {"workers": 2, "zero": 2},
    "ZeRO-3": {"workers": 2, "zero": 3},
    "tensor 2": {"tensor": 2},
    "tensor 4": {"tensor": 4},
    "tensor 2 x DDP 2": {"tensor": 2, "workers": 2},
    "tensor 2 x ZeRO-1 2": {"tensor": 2, "workers": 2, "zero": 1},
    "tensor 2 x ZeRO-2 2": {"tensor": 2, "workers": 2, "zero": 2},
    "pipeline 2": {"pipeline": 2},
    "tensor 2 x pipeline 2": {"tensor": 2, "pipeline": 2},
    "ZeRO-1, 4 workers": {"workers": 4, "zero": 1},
    "ZeRO-2, 4 workers": {"workers": 4, "zero": 2},
    "ZeRO-3, 4 workers": {"workers": 4, "zero": 3},
}
TASK = "text-generation"
NUM_ROWS, LENGTH = 8, 32
MEGABYTE = 1e6


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    chosen = [name for name, keys in STRATEGIES.items() if not arguments.quick or num_ranks(keys) == 2]
    found: dict[str, dict[str, int]] = {}
    for ranks in (2, 4):
        names = [name for name in chosen if num_ranks(STRATEGIES[name]) == ranks]
        if names:
            found |= measure(names, ranks)
    report("bytes of rank 0 by strategy", [row(name, found[name]) for name in chosen], json_file=arguments.json)


def num_ranks(keys: dict[str, Any]) -> int:
    return train_spec(keys).parallel.num_ranks


def train_spec(keys: dict[str, Any]) -> TrainSpec:
    return TrainSpec.model_validate({"batch_size": NUM_ROWS, "max_steps": 2, "parallel": keys})


def size() -> ModelSize:
    return model_size(ModelSpec(config=CONFIG))


def planned(train: TrainSpec) -> States:
    """Of rank 0, which is on the first stage of a pipeline."""
    parallel, model = train.parallel, size()
    if parallel.pipeline > 1:
        assert model.architecture is not None
        stages = stage_sizes(model.architecture, TASK, parallel.pipeline, tensor=parallel.tensor)
        return stage_states(train, stages[0])
    return training_states(model, train, task=TASK, workers=parallel.workers, zero=parallel.zero)


def row(name: str, held: dict[str, int]) -> dict[str, Figure]:
    """Figures of one strategy: megabytes, and by how much the sum differs from what ``plan`` says."""
    said = planned(train_spec(STRATEGIES[name]))
    total, expected = sum(held.values()), said.parameters + said.gradients + said.optimizer
    parts: dict[str, Figure] = {kind: round(value / MEGABYTE, 2) for kind, value in held.items()}
    return {
        "strategy": name,
        **parts,
        "sum": round(total / MEGABYTE, 2),
        "plan": round(expected / MEGABYTE, 2),
        "difference": f"{total / expected - 1:+.1%}",
    }


def measure(names: list[str], ranks: int) -> dict[str, dict[str, int]]:
    """Bytes of rank 0 by strategy."""
    from torch import multiprocessing

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = multiprocessing.get_context("spawn").SimpleQueue()
    context = multiprocessing.spawn(run_rank, (names, ranks, port, results), nprocs=ranks, join=False)
    found: dict[str, dict[str, int]] = results.get()
    assert context is not None
    while not context.join():
        pass
    return found


def run_rank(rank: int, names: list[str], ranks: int, port: int, results: SimpleQueue[Any]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))  # which DeepSpeed reads
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    store = dist.TCPStore("127.0.0.1", port, ranks, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    found = {name: held_by(train_spec(STRATEGIES[name]), rank, ranks) for name in names}
    if rank == 0:
        results.put(found)
    dist.barrier()
    dist.destroy_process_group()


def held_by(train: TrainSpec, rank: int, ranks: int) -> dict[str, int]:
    """Before the update of the second step, when the optimizer's state is there."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from fastserve_ray.tasks.table import load_task
    from fastserve_ray.training.strategies.protocol import MicroBatch
    from fastserve_ray.training.strategies.table import make_strategy
    from fastserve_ray.training.world import World

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CONFIG))
    ids = torch.randint(0, CONFIG["vocab_size"], (NUM_ROWS // train.parallel.workers, LENGTH))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    world = World.of(rank, ranks, "cpu", train.parallel)
    strategy: Any = make_strategy(train.parallel)
    strategy.setup(model, train, world, load_task(TASK), batch)
    seen: list[dict[str, int]] = []
    update = strategy.update

    def watched(learning_rate: float) -> None:
        seen.append(asdict(strategy.held_bytes()))
        update(learning_rate)

    strategy.update = watched
    for _ in range(2):
        strategy.train_step([MicroBatch(batch, 1.0 / (NUM_ROWS * (LENGTH - 1)))], 1e-3)
    return seen[-1]


if __name__ == "__main__":
    main()
