"""Forward and backward passes of one stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.training.pipeline.schedules import actions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from fastserve_ray.tasks.protocol import LossSum
    from fastserve_ray.training.pipeline.channel import Channel
    from fastserve_ray.training.pipeline.schedules import Schedule
    from fastserve_ray.training.strategies.protocol import Batch, MicroBatch, Objective, Sums


class _HandedOn(Exception):  # noqa: N818
    """Ends the forward pass of all stages but the last at the last of their layers, with the hidden states (B, T, H).
    What an objective does with the output of a model happens on the last stage alone."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Stage:
    """Runs the objective on a cut model: hidden states come from the stage before and go to the stage after.

    Args:
        model: cut for this stage.
        down: activations; ``up``: gradients.
        autocast: makes the context of a forward pass.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        channels: tuple[Channel, Channel],
        *,
        number: int,
        num_stages: int,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.model = model
        self.is_last = number == num_stages - 1
        self._objective = objective
        self._down, self._up = channels
        self._number, self._num_stages = number, num_stages
        self._autocast = autocast
        self._received: torch.Tensor | None = None
        self._width = int(model.config.hidden_size)
        if number > 0:
            model.base_model.register_forward_pre_hook(self._take_over, with_kwargs=True)
        if not self.is_last:
            model.base_model.register_forward_hook(_hand_on)

    def train(self, micro_batches: Sequence[MicroBatch], schedule: Schedule) -> list[torch.Tensor]:
        """Gradients of all micro batches, added up; the losses, on the last stage, fillers left out."""
        losses = []
        kept: dict[int, tuple[torch.Tensor | None, torch.Tensor]] = {}
        order = actions(schedule, stage=self._number, num_stages=self._num_stages, num_micro_batches=len(micro_batches))
        for action in order:
            micro = micro_batches[action.micro]
            if action.kind == "backward":
                self._backward(*kept.pop(action.micro))
                continue
            result = self._forward(micro.batch)
            output = result if isinstance(result, torch.Tensor) else result.total * micro.weight
            if not isinstance(result, torch.Tensor) and micro.weight:
                losses.append(result.total.detach())
            kept[action.micro] = self._received, output
        self._flush()
        return losses

    def evaluate(self, micro_batches: Iterable[MicroBatch], sums: Sums) -> None:
        """Adds to ``sums`` on the last stage; the model is in evaluation mode."""
        with torch.no_grad():
            for micro in micro_batches:
                result = self._forward(micro.batch)
                if micro.weight and not isinstance(result, torch.Tensor):
                    sums.total += float(result.total)
                    sums.count += float(result.count)
                    sums.correct += float(result.correct)
        self._flush()

    def _forward(self, batch: Batch) -> torch.Tensor | LossSum:
        """The loss on the last stage, else the hidden states, which are sent on."""
        self._received = None
        with self._autocast():
            try:
                return self._objective.loss(self.model, batch)
            except _HandedOn as handed:
                hidden = handed.hidden
        self._down.send(hidden)
        return hidden

    def _backward(self, received: torch.Tensor | None, output: torch.Tensor) -> None:
        gradient = None if self.is_last else self._up.receive(tuple(output.shape)).to(output.dtype)
        if output.requires_grad:  # not on a first stage that is frozen
            torch.autograd.backward(output, gradient)
        if received is not None:
            assert received.grad is not None
            self._up.send(received.grad)

    def _take_over(self, _: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """In place of the tokens, the hidden states of the stage before."""
        names = ("input_ids",) if args else ()
        inputs = {**kwargs, **dict(zip(names, args, strict=True))}
        received = self._down.receive((*inputs.pop("input_ids").shape, self._width))
        self._received = received.requires_grad_(torch.is_grad_enabled())
        return (), {**inputs, "inputs_embeds": received}

    def _flush(self) -> None:
        self._received = None
        self._down.flush()
        self._up.flush()


def _hand_on(_: object, __: object, output: Any) -> None:
    raise _HandedOn(output.last_hidden_state)
