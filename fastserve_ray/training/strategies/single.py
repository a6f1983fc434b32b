"""One worker, no process group."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from fastserve_ray.training.checkpoint.plain import load_plain, plain_slices
from fastserve_ray.training.precision import LossScaler, autocast
from fastserve_ray.training.strategies.held import HeldBytes, plain_bytes
from fastserve_ray.training.strategies.optimizer import make_adamw, set_learning_rate
from fastserve_ray.training.strategies.passes import Passes
from fastserve_ray.training.tensor.cutting import cut_model
from fastserve_ray.training.tensor.norm import clip_gradients
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


class SingleStrategy:
    """Plain PyTorch; the base of the strategies whose optimizer is plain PyTorch's."""

    def setup(
        self, model: torch.nn.Module, train: TrainSpec, world: World, objective: Objective, sample: Batch
    ) -> None:
        self._shards = cut_model(model, world)
        self.module = model.to(world.device)
        self._world = world
        self._max_grad_norm = float(train.max_grad_norm)
        self._optimizer = make_adamw(self.module, train)
        self._scaler = LossScaler(train.precision, world.device)
        self._is_measured = train.balance == "measured"
        self._passes = Passes(objective, lambda: autocast(train.precision, world.device))
        self._model = self._wrapped(sample)

    def _wrapped(self, sample: Batch) -> torch.nn.Module:
        """What is called in a forward pass."""
        return self.module

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> float:
        self.module.train()
        scale = float(self._world.data_size)  # an exchange takes the mean, and the loss is a sum
        own_loss = self._passes.train(self._model, micro_batches, self._backward, scale)
        self.update(learning_rate)
        return own_loss

    def update(self, learning_rate: float) -> None:
        """Clip, change the weights, and drop the gradients."""
        self._clip()
        set_learning_rate(self._optimizer, learning_rate)
        self._scaler.step(self._optimizer)
        self._optimizer.zero_grad(set_to_none=True)

    def held_bytes(self) -> HeldBytes:
        """What this rank holds now."""
        return plain_bytes(self.module.parameters(), self._optimizer)

    def _backward(self, loss: torch.Tensor, is_last: bool) -> None:
        with self._exchange(is_last):
            self._scaler.scaled(loss).backward()

    def _exchange(self, is_last: bool) -> AbstractContextManager[None]:
        """Around a backward pass; after the last one of a step gradients are the mean over the workers."""
        return nullcontext()

    def _clip(self) -> None:
        if self._max_grad_norm > 0:
            self._scaler.unscale(self._optimizer)
            clip_gradients(self.module.parameters(), self._max_grad_norm, self._shards)

    def evaluate(self, micro_batches: Iterable[MicroBatch]) -> Sums:
        self.module.eval()
        return self._passes.evaluate(self._model, micro_batches)

    def slices(self) -> Iterator[Slice]:
        """Workers with the same weights write a share each."""
        share = (self._world.data_rank, self._world.data_size)
        return plain_slices(self.module, self._optimizer, share=share, place_of=self._shards.place)

    def state(self) -> dict[str, JsonValue]:
        return self._scaler.state()

    def scaling(self) -> dict[str, float]:
        """See ``ScalesLoss``."""
        return self._scaler.scaling()

    def load(self, checkpoint: CheckpointReader) -> None:
        load_plain(self.module, self._optimizer, checkpoint, place_of=self._shards.place)
        self._scaler.load(checkpoint.state)

    def full_state_dict(self) -> dict[str, torch.Tensor] | None:
        return whole_state(self.module, self._shards, self._world)
