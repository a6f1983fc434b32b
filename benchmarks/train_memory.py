"""What a rank holds of weights, gradients, master copies and optimizer state, against what ``plan`` says.

Trains a GPT-2 of 4.2 million parameters for two steps with every strategy, on two or four processes of this machine.
What is held is added up tensor by tensor whenever a gradient arrives in the second step, and before its update, so it
is the same on any machine. Figures are megabytes at the moment that has the most, of the rank that holds the most.

    python -m benchmarks.train_memory [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.common import Figure, make_parser, report
from fastserve_ray.plan.memory import most_states
from fastserve_ray.plan.model_size import ModelSize, model_size
from fastserve_ray.spec import ModelSpec, TrainSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import SimpleQueue

    import torch

    from fastserve_ray.training.strategies.held import HeldBytes

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
    "tensor 2 x ZeRO-3 2": {"tensor": 2, "workers": 2, "zero": 3},
    "pipeline 2": {"pipeline": 2},
    "pipeline 4": {"pipeline": 4},
    "pipeline 2 x DDP 2": {"pipeline": 2, "workers": 2},
    "pipeline 2 x ZeRO-1 2": {"pipeline": 2, "workers": 2, "zero": 1},
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
    report("bytes of a rank by strategy", [row(name, found[name]) for name in chosen], json_file=arguments.json)


def num_ranks(keys: dict[str, Any]) -> int:
    return train_spec(keys).parallel.num_ranks


def train_spec(keys: dict[str, Any]) -> TrainSpec:
    return TrainSpec.model_validate({"batch_size": NUM_ROWS, "max_steps": 2, "parallel": keys})


def size() -> ModelSize:
    return model_size(ModelSpec(config=CONFIG))


def row(name: str, held: dict[str, int]) -> dict[str, Figure]:
    """Figures of one strategy: megabytes, and by how much the sum differs from what ``plan`` says."""
    said = most_states(size(), train_spec(STRATEGIES[name]), task=TASK)
    total, planned = sum(held.values()), said.parameters + said.gradients + said.optimizer
    parts: dict[str, Figure] = {kind: round(value / MEGABYTE, 2) for kind, value in held.items()}
    return {
        "strategy": name,
        **parts,
        "sum": round(total / MEGABYTE, 2),
        "plan": round(planned / MEGABYTE, 2),
        "difference": f"{total / planned - 1:+.1%}",
    }


def measure(names: list[str], ranks: int) -> dict[str, dict[str, int]]:
    """Bytes of the rank that holds the most, by strategy."""
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
    found = {name: asdict(held_by(train_spec(STRATEGIES[name]), rank, ranks)) for name in names}
    every: list[dict[str, dict[str, int]]] = [{} for _ in range(ranks)]
    dist.all_gather_object(every, found)
    if rank == 0:
        results.put({name: max((one[name] for one in every), key=lambda held: sum(held.values())) for name in names})
    dist.barrier()
    dist.destroy_process_group()


def held_by(train: TrainSpec, rank: int, ranks: int) -> HeldBytes:
    """By this rank in the second step, when the optimizer's state is there."""
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

    def step() -> None:
        strategy.train_step([MicroBatch(batch, 1.0 / (NUM_ROWS * (LENGTH - 1)))], 1e-3)

    step()
    return most_held(strategy, model, step)


def most_held(strategy: Any, model: torch.nn.Module, step: Callable[[], None]) -> HeldBytes:
    """What this rank holds at the fullest moment of a training step."""
    seen: list[HeldBytes] = []
    update = strategy.update

    def look(*_: Any) -> None:
        seen.append(strategy.held_bytes())

    def watched(learning_rate: float) -> None:
        look()
        update(learning_rate)

    hooks = [
        parameter.register_post_accumulate_grad_hook(look)
        for parameter in model.parameters()
        if parameter.requires_grad and not parameter.is_meta
    ]
    strategy.update = watched
    step()
    strategy.update = update
    for hook in hooks:
        hook.remove()
    return max(seen, key=lambda held: held.total)


if __name__ == "__main__":
    main()
