"""DeepSpeed ZeRO: optimizer state (1), gradients (2) and parameters (3) split over the workers (arXiv 1910.02054)."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from fastserve_ray.plan.zero import zero_bucket
from fastserve_ray.training.checkpoint.sharded import load_zero, zero_slices
from fastserve_ray.training.strategies.disk_states import DiskStates, move_to_disk
from fastserve_ray.training.strategies.held import HeldBytes, zero_bytes
from fastserve_ray.training.strategies.offload import offload_settings
from fastserve_ray.training.strategies.optimizer import make_adamw, set_learning_rate
from fastserve_ray.training.strategies.passes import Passes
from fastserve_ray.training.tensor.cutting import cut_model
from fastserve_ray.training.tensor.shards import whole_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch
    from pydantic import JsonValue

    from fastserve_ray.spec import TrainSpec
    from fastserve_ray.training.checkpoint.reader import CheckpointReader
    from fastserve_ray.training.checkpoint.slices import Slice
    from fastserve_ray.training.strategies.protocol import Batch, MicroBatch, Objective, Sums
    from fastserve_ray.training.world import World

GOOD_STEPS = 2000
"""fp16: the scale of the loss doubles after so many, as torch's GradScaler does it."""


class ZeroStrategy:
    """One class for the three stages; the stage is ``train.parallel.zero``.

    Passes of ZeRO-3 exchange weights layer by layer. What a worker computes is told from what it waits for by the
    processor time of its thread, which does not pass while gloo waits.
    """

    computing_seconds = 0.0

    def setup(
        self, model: torch.nn.Module, train: TrainSpec, world: World, objective: Objective, sample: Batch
    ) -> None:
        deepspeed = import_deepspeed(world.device)
        self._world = world
        self._stage = train.parallel.zero
        self._is_scaled = train.precision == "fp16"
        self._passes = Passes(objective, nullcontext)  # DeepSpeed has a bf16 mode of its own
        self._shards = cut_model(model, world)
        model = model.to(world.device)
        mpu = None if world.tensor_group is None else Mpu(world)
        deepspeed.utils.groups.mpu = mpu  # else that of an earlier run in this process stays
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=make_adamw(model, train),
            mpu=mpu,
            config=deepspeed_config(train, [each.numel() for each in model.parameters() if each.requires_grad]),
            dist_init_required=False,
        )
        self._disk: DiskStates | None = None
        if train.parallel.offload == "nvme":
            self._disk = move_to_disk(self._engine, Path(str(train.parallel.offload_folder)))

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> float:
        self._engine.train()
        started = thread_time()
        own_loss = self._passes.train(self._engine, micro_batches, self._backward, float(self._world.data_size))
        self.computing_seconds = thread_time() - started
        self.update(learning_rate)
        return own_loss

    def update(self, learning_rate: float) -> None:
        """Clip, change the weights, and drop the gradients."""
        set_learning_rate(self._optimizer, learning_rate)
        self._engine.step()
        if self._disk is not None:
            self._disk.release()

    def held_bytes(self) -> HeldBytes:
        """What this rank holds now; what lies on a disk is not in it."""
        return zero_bytes(self._engine, self._disk)

    def _backward(self, loss: torch.Tensor, is_last: bool) -> None:
        """DeepSpeed counts micro batches in ``step``, and updates in the last one only."""
        self._engine.backward(loss, scale_wrt_gas=False)
        if not is_last:
            self._engine.step()

    def evaluate(self, micro_batches: Iterable[MicroBatch]) -> Sums:
        self._engine.eval()
        return self._passes.evaluate(self._engine, micro_batches)

    def slices(self) -> Iterator[Slice]:
        return zero_slices(self._engine, data_rank=self._world.data_rank, place_of=self._shards.place)

    def state(self) -> dict[str, JsonValue]:
        return {**self.scaling()}

    def scaling(self) -> dict[str, float]:
        """See ``ScalesLoss``."""
        if not self._is_scaled:
            return {}
        scale = float(self._engine.optimizer.cur_scale)
        return {"loss_scale": scale, "skipped_steps": float(self._engine.skipped_steps)}

    def load(self, checkpoint: CheckpointReader) -> None:
        load_zero(self._engine, checkpoint, place_of=self._shards.place)
        scale, skipped = checkpoint.state.get("loss_scale"), checkpoint.state.get("skipped_steps")
        if self._is_scaled and isinstance(scale, float) and isinstance(skipped, float):
            self._engine.optimizer.cur_scale = scale
            self._engine.skipped_steps = int(skipped)

    def full_state_dict(self) -> dict[str, torch.Tensor] | None:
        if self._stage < 3:
            return whole_state(self._engine.module, self._shards, self._world)
        return self._gathered_state()

    def _gathered_state(self) -> dict[str, torch.Tensor] | None:
        """One parameter after the other: never are all of them whole beside their copies."""
        import deepspeed

        found: dict[str, torch.Tensor] = {}
        first: dict[int, str] = {}  # tied weights have several names
        for name, tensor in self._engine.module.state_dict(keep_vars=True).items():
            if first.setdefault(id(tensor), name) != name:
                found |= {name: found[first[id(tensor)]]} if self._world.is_first else {}
                continue
            with deepspeed.zero.GatheredParameters([tensor] if hasattr(tensor, "ds_id") else []):
                whole = tensor.detach() if self._world.data_rank else self._shards.whole(name, tensor.detach())
                if self._world.is_first:
                    found[name] = whole.to("cpu", copy=True)
        return found if self._world.is_first else None


class Mpu:
    """The groups under the names by which DeepSpeed asks for them. All ranks make one together."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._data_group: Any = world.data_group
        if world.data_size == 1:
            self._data_group = [dist.new_group([rank]) for rank in range(world.size)][world.rank]

    def get_model_parallel_rank(self) -> int:
        return self._world.tensor_rank

    def get_model_parallel_world_size(self) -> int:
        return self._world.tensor_size

    def get_model_parallel_group(self) -> Any:
        return self._world.tensor_group

    def get_data_parallel_rank(self) -> int:
        return self._world.data_rank

    def get_data_parallel_world_size(self) -> int:
        return self._world.data_size

    def get_data_parallel_group(self) -> Any:
        return self._data_group

    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_tensor_model_parallel_group = get_model_parallel_group


def deepspeed_config(train: TrainSpec, trained: Sequence[int]) -> dict[str, Any]:
    """The engine's settings. Gradient clipping is always given: DeepSpeed 0.19 clips at 1.0 when it is left out.

    Args:
        trained: sizes of the tensors that this rank computes gradients of.
    """
    bucket = zero_bucket(train.parallel.zero, sum(trained), max(trained, default=0))
    return {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.rows_per_pass,
        "gradient_accumulation_steps": train.passes_per_step,
        "gradient_clipping": float(train.max_grad_norm),
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": train.parallel.zero,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": bucket,
            **offload_settings(train.parallel, on_gpu=train.resources_per_worker.GPU > 0),
        },
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": train.precision == "bf16"},
        "fp16": {"enabled": train.precision == "fp16", "loss_scale_window": GOOD_STEPS, "hysteresis": 1},
        "wall_clock_breakdown": False,
        "steps_per_print": 1_000_000_000,
    }


def import_deepspeed(device: str) -> Any:
    """DeepSpeed, quiet, and without the builds of C++ operators that a first use on a CPU would start."""
    if not device.startswith("cuda"):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    if not device.startswith("cuda"):
        __compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if device.startswith("cuda") else "gloo", verbose=False)
    return deepspeed
