"""Pipeline parallel: the layers are cut into stages, and micro batches go through them one after another.

Alone, with data parallel workers (gradients of a stage are summed over the workers that hold it), and with ZeRO 1 (its
optimizer state is shared out over them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from fastserve_ray.training.pipeline.channel import make_channels
from fastserve_ray.training.pipeline.cutting import Pieces, cut, held_parameters, move_to
from fastserve_ray.training.pipeline.gradients import TiedWeights, clip_gradients, sum_gradients
from fastserve_ray.training.pipeline.optimizer import make_stage_optimizer, own_optimizer
from fastserve_ray.training.pipeline.stage import Stage
from fastserve_ray.training.precision import autocast
from fastserve_ray.training.strategies.optimizer import make_adamw, set_learning_rate
from fastserve_ray.training.strategies.protocol import Sums

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from fastserve_ray.spec import TrainSpec
    from fastserve_ray.training.strategies.protocol import Batch, MicroBatch, Objective
    from fastserve_ray.training.world import World


class PipelineStrategy:
    """One stage on this rank. Until ``setup`` has cut the model, every rank holds the whole of it in host memory;
    after it, the weights, gradients and optimizer state of its stage."""

    def setup(
        self, model: torch.nn.Module, train: TrainSpec, world: World, objective: Objective, sample: Batch
    ) -> None:
        assert world.pipeline_group is not None
        self._world, self._group = world, world.pipeline_group
        self._schedule = train.parallel.schedule
        self._max_grad_norm = float(train.max_grad_norm)
        self.module = model
        pieces = Pieces.of(model)
        whole = make_adamw(model, train)  # groups go by the names of the whole model
        stage, count = world.pipeline_rank, world.pipeline_size
        is_first, is_last = stage == 0, stage == count - 1
        tied = pieces.tied() if is_first or is_last else []
        cut(pieces, pieces.shares(count)[stage], is_first=is_first, is_last=is_last)
        move_to(model, world.device)
        self._held = held_parameters(model)
        self._tied = TiedWeights(tied, self._group, is_first=is_first)
        self._optimizer = make_stage_optimizer(whole, self._held, world, zero=train.parallel.zero)
        self._stage = Stage(
            model,
            objective,
            make_channels(world),
            number=stage,
            num_stages=count,
            autocast=lambda: autocast(train.precision, world.device),
        )

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> float:
        self.module.train()
        torch.manual_seed(stage_seed(torch.initial_seed(), self._world.pipeline_rank))
        losses = self._stage.train(micro_batches, self._schedule)
        sum_gradients(self._held, self._world.data_group)
        self._tied.sum_gradients()
        clip_gradients(self._held, self._tied.copies, self._max_grad_norm, self._group)
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        for parameter in self._held:
            parameter.grad = None
        return self._of_last_stage(float(torch.stack(losses).double().sum()) if losses else 0.0)[0]

    def evaluate(self, micro_batches: Iterable[MicroBatch]) -> Sums:
        self.module.eval()
        sums = Sums()
        self._stage.evaluate(micro_batches, sums)
        return Sums(*self._of_last_stage(sums.total, sums.count, sums.correct))

    def _of_last_stage(self, *values: float) -> list[float]:
        """Its values, on all stages; elsewhere they are zeros."""
        device = self._world.device if dist.get_backend(self._group) == "nccl" else "cpu"
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, group=self._group)
        return [float(value) for value in tensor.tolist()]

    def save(self, folder: Path) -> None:
        """Weights from data rank 0 of each stage; optimizer state from all that hold a part of it."""
        is_writer = self._world.data_rank == 0
        weights = {name: tensor for name, tensor in self.module.state_dict().items() if not tensor.is_meta}
        state = {"model": weights if is_writer else {}, "optimizer": own_optimizer(self._optimizer).state_dict()}
        torch.save(state, folder / f"pipeline-{self._world.rank}.pt")

    def load(self, folder: Path) -> None:
        first = self._world.rank - self._world.data_rank * self._world.tensor_size
        for rank, part in ((first, "model"), (self._world.rank, "optimizer")):
            state = torch.load(folder / f"pipeline-{rank}.pt", map_location=self._world.device, weights_only=True)
            if part == "model":
                self.module.load_state_dict(state[part], strict=False)
            else:
                own_optimizer(self._optimizer).load_state_dict(state[part])

    def full_state_dict(self) -> dict[str, torch.Tensor] | None:
        """Stage by stage to rank 0; data rank 0 of each stage sends."""
        if self._world.data_rank > 0:
            return None
        own = {name: tensor for name, tensor in self.module.state_dict().items() if not tensor.is_meta}
        names: list[list[str]] = [[] for _ in range(self._world.pipeline_size)]
        dist.all_gather_object(names, list(own), group=self._group)
        if not self._world.is_first:
            for tensor in own.values():
                dist.send(tensor.detach().contiguous(), group_dst=0, group=self._group)
            return None
        found = {name: tensor.detach().cpu() for name, tensor in own.items()}
        shapes = self.module.state_dict()
        for stage in range(1, len(names)):
            for name in names[stage]:
                buffer = torch.empty_like(shapes[name], device=self._world.device)
                dist.recv(buffer, group_src=stage, group=self._group)
                found[name] = buffer.cpu()
        return {name: found[name] for name in shapes}


def stage_seed(seed: int, stage: int) -> int:
    """Every stage drops out in its own way; the same in every run."""
    return int(np.random.SeedSequence([seed, stage]).generate_state(1, np.uint64)[0] >> np.uint64(1))
