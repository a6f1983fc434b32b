"""The training loop that one would write by hand, for ``torchrun``: what our Ray Train path is measured against.

The model, the data, the optimizer and the DeepSpeed settings are those of our strategies; the loop is plain. Rank
0 prints the seconds of each step as JSON.

    torchrun --nproc-per-node 2 -m benchmarks.plain_train WORK.pickle
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.training.batches import BatchPlan
from fastserve_ray.training.job import TrainJob, build_model
from fastserve_ray.training.schedule import learning_rate
from fastserve_ray.training.strategies.optimizer import make_adamw, set_learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.spec import TrainSpec

LOGGING_STEPS = 10


def main() -> None:
    job: TrainJob = pickle.loads(Path(sys.argv[1]).read_bytes())
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    dataset = PreparedDataset.open(job.dataset)
    torch.manual_seed(job.train.seed)
    model, _ = build_model(job, dataset)
    step = make_zero_step(model, job.train) if job.train.parallel.zero else make_ddp_step(model, job.train)
    seconds = train(job, dataset, step)
    if dist.get_rank() == 0:
        print(json.dumps(seconds))
    dist.destroy_process_group()


def train(
    job: TrainJob, dataset: PreparedDataset, step: Callable[[dict[str, torch.Tensor], float], Any]
) -> list[float]:
    """Seconds of every step, its data included."""
    plan = BatchPlan(len(dataset.train), job.train.batch_size, job.train.seed)
    total = job.total_steps(len(dataset.train))
    seconds = []
    for number in range(total):
        start = perf_counter()
        rows = plan.micro_batches(number, rank=dist.get_rank(), size=dist.get_world_size(), accumulation=1)[0]
        ids = torch.tensor([dataset.train[int(row)]["input_ids"].tolist() for row in rows])
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        loss = step(batch, learning_rate(job.train, number, total))
        if (number + 1) % LOGGING_STEPS == 0:
            loss.item()
        seconds.append(perf_counter() - start)
    return seconds


def make_ddp_step(model: torch.nn.Module, train: TrainSpec) -> Callable[[dict[str, torch.Tensor], float], Any]:
    wrapped = DistributedDataParallel(model)
    optimizer = make_adamw(model, train)

    def step(batch: dict[str, torch.Tensor], rate: float) -> Any:
        wrapped.train()
        loss = wrapped(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm)
        set_learning_rate(optimizer, rate)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def make_zero_step(model: torch.nn.Module, train: TrainSpec) -> Callable[[dict[str, torch.Tensor], float], Any]:
    from fastserve_ray.training.strategies.zero import deepspeed_config, import_deepspeed

    engine, optimizer, _, _ = import_deepspeed("cpu").initialize(
        model=model,
        optimizer=make_adamw(model, train),
        config=deepspeed_config(train, [parameter.numel() for parameter in model.parameters()]),
        dist_init_required=False,
    )

    def step(batch: dict[str, torch.Tensor], rate: float) -> Any:
        engine.train()
        loss = engine(**batch, use_cache=False).loss
        engine.backward(loss)
        set_learning_rate(optimizer, rate)
        engine.step()
        return loss.detach()

    return step


if __name__ == "__main__":
    main()
