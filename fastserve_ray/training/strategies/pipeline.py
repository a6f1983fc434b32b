"""Pipeline parallel: the layers are cut into stages, and micro batches go through them one after another.

Alone, with data parallel workers (gradients of a stage are summed over the workers that hold it), with ZeRO 1 (its
optimizer state is shared out over them), and with layers cut over a tensor group (each of its ranks exchanges hidden
states with the rank of the same number on the stages beside it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from fastserve_ray.training.checkpoint.plain import buffer_slices, load_buffers, load_parameters, parameter_slices
from fastserve_ray.training.pipeline.channel import make_channels
from fastserve_ray.training.pipeline.cutting import Pieces, cut, held_parameters, move_to
from fastserve_ray.training.pipeline.gradients import TiedWeights, clip_gradients, sum_gradients
from fastserve_ray.training.pipeline.optimizer import make_stage_optimizer, own_optimizer
from fastserve_ray.training.pipeline.stage import Stage
from fastserve_ray.training.pipeline.timing import measure_costs
from fastserve_ray.training.precision import autocast
from fastserve_ray.training.strategies.held import HeldBytes, plain_bytes
from fastserve_ray.training.strategies.optimizer import make_adamw, set_learning_rate
from fastserve_ray.training.strategies.protocol import Sums
from fastserve_ray.training.tensor.cutting import cut_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic import JsonValue

    from fastserve_ray.spec import TrainSpec
    from fastserve_ray.training.checkpoint.reader import CheckpointReader
    from fastserve_ray.training.checkpoint.slices import Slice
    from fastserve_ray.training.pipeline.timing import Costs
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
        stage, count = world.pipeline_rank, world.pipeline_size
        is_first, is_last = stage == 0, stage == count - 1
        whole = Pieces.of(model)
        costs = self._costs(whole, train, objective, sample) if train.parallel.balance_stages == "time" else None
        layers = whole.shares(count, costs)[stage]  # of whole layers, so that ranks of a tensor group share out alike
        self._shards = cut_model(model, world)
        names = {parameter: name for name, parameter in model.named_parameters()}
        self._origins = origins(model)
        optimizer = make_adamw(model, train)  # groups go by the names of the whole model
        pieces = Pieces.of(model)
        tied = pieces.tied() if is_first or is_last else []
        cut(pieces, layers, is_first=is_first, is_last=is_last)
        move_to(model, world.device)
        self._held = held_parameters(model)
        self._names = {parameter: names[parameter] for parameter in self._held}
        self._tied = TiedWeights(tied, self._group, is_first=is_first)
        self._optimizer = make_stage_optimizer(optimizer, self._held, world, zero=train.parallel.zero)
        self._stage = Stage(
            model,
            objective,
            make_channels(world),
            number=stage,
            num_stages=count,
            autocast=lambda: autocast(train.precision, world.device),
        )
        self._of_last_stage(0.0)  # all ranks must join the first collective of a group; tied weights are sent by two

    def _costs(self, pieces: Pieces, train: TrainSpec, objective: Objective, sample: Batch) -> Costs:
        """Measured on rank 0 with micro batches of copies of the sample, for all ranks. The whole model goes to the
        device for it."""
        found: list[Costs | None] = [None]
        if self._world.is_first:
            self.module.to(self._world.device).train()
            batch = {name: values.repeat_interleave(train.rows_per_pass, 0) for name, values in sample.items()}

            def loss() -> torch.Tensor:
                with autocast(train.precision, self._world.device):
                    return objective.loss(self.module, batch).total

            found = [measure_costs(pieces, loss, self._world.device)]
        dist.broadcast_object_list(found, src=0)
        assert found[0] is not None
        return found[0]

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> float:
        self.module.train()
        torch.manual_seed(stage_seed(torch.initial_seed(), self._world.pipeline_rank))
        losses = self._stage.train(micro_batches, self._schedule)
        sum_gradients(self._held, self._world.data_group)
        self._tied.sum_gradients()
        self.update(learning_rate)
        return self._of_last_stage(float(torch.stack(losses).double().sum()) if losses else 0.0)[0]

    def update(self, learning_rate: float) -> None:
        """Clip, change the weights, and drop the gradients."""
        clip_gradients(self._held, self._tied.copies, self._max_grad_norm, self._group, self._shards)
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        for parameter in self._held:
            parameter.grad = None

    def held_bytes(self) -> HeldBytes:
        """What this rank holds now."""
        return plain_bytes(self._held, own_optimizer(self._optimizer))

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

    def slices(self) -> Iterator[Slice]:
        """Workers that hold the same stage write a share each; with ZeRO 1, each the parameters that it updates. The
        second copy of tied weights is left out."""
        rank, size = self._world.data_rank, self._world.data_size
        optimizer = own_optimizer(self._optimizer)
        left_out = {id(parameter) for parameter in self._tied.copies}
        if optimizer is not self._optimizer:
            rank, size = 0, 1
            updated = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            left_out |= {id(parameter) for parameter in self._held} - updated
        named = [(name, parameter) for name, parameter in self._named() if id(parameter) not in left_out]
        yield from parameter_slices(named, optimizer, share=(rank, size), place_of=self._shards.place)
        if self._world.data_rank == 0:
            yield from buffer_slices(self.module)

    def state(self) -> dict[str, JsonValue]:
        return {}

    def load(self, checkpoint: CheckpointReader) -> None:
        load_parameters(self._named(), own_optimizer(self._optimizer), checkpoint, place_of=self._shards.place)
        load_buffers(self.module, checkpoint)

    def _named(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """What this stage holds, under the names of the whole model."""
        return ((self._names[parameter], parameter) for parameter in self._held)

    def full_state_dict(self) -> dict[str, torch.Tensor] | None:
        """Stage by stage to rank 0; tensor rank 0 of data rank 0 of each stage sends what its tensor group joins. Names
        of tied weights share a tensor."""
        if self._world.data_rank > 0:
            return None
        own = {
            name: tensor.detach()
            for name, tensor in self.module.state_dict().items()
            if not tensor.is_meta and self._origins[name] == name
        }
        shapes = {name: (self._shards.place(name, tensor.shape).shape, tensor.dtype) for name, tensor in own.items()}
        of_stages: list[dict[str, tuple[tuple[int, ...], torch.dtype]]] = [{} for _ in range(self._world.pipeline_size)]
        dist.all_gather_object(of_stages, shapes, group=self._group)
        found = {}
        for name, tensor in own.items():
            whole = self._shards.whole(name, tensor)
            if self._world.is_first:
                found[name] = whole.cpu()
            elif self._world.tensor_rank == 0:
                dist.send(whole.contiguous(), group_dst=0, group=self._group)
        if not self._world.is_first:
            return None
        for stage, expected in enumerate(of_stages[1:], start=1):
            for name, (shape, dtype) in expected.items():
                buffer = torch.empty(shape, dtype=dtype, device=self._world.device)
                dist.recv(buffer, group_src=stage, group=self._group)
                found[name] = buffer.cpu()
        return {name: found[self._origins[name]] for name in self._origins}


def origins(model: torch.nn.Module) -> dict[str, str]:
    """For every name in the state dict the first one of the same tensor: tied weights have several."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def stage_seed(seed: int, stage: int) -> int:
    """Every stage drops out in its own way; the same in every run."""
    return int(np.random.SeedSequence([seed, stage]).generate_state(1, np.uint64)[0] >> np.uint64(1))
