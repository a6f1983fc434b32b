"""What each piece of a model costs in seconds, to share layers out by time instead of by parameters."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.training.pipeline.cutting import Pieces

ROUNDS = 4
"""Passes; the first warms up."""


@dataclass(frozen=True)
class Costs:
    """Of a forward and a backward pass, in any unit."""

    layers: list[float]
    first: float
    """Of what comes before the layers."""
    last: float
    """Of what comes after them, the loss included."""


def measure_costs(pieces: Pieces, loss: Callable[[], torch.Tensor], device: str) -> Costs:
    """Seconds on this rank.

    Args:
        pieces: of a whole model on ``device``, in training mode. Its gradients are cleared.
        loss: runs one forward pass of it.
    """
    rounds = [_one_round(pieces, loss, device) for _ in range(ROUNDS)][1:]
    middle = [median(times) for times in zip(*rounds, strict=True)]
    return Costs(middle[1:-1], middle[0], middle[-1])


def _one_round(pieces: Pieces, loss: Callable[[], torch.Tensor], device: str) -> list[float]:
    """Seconds of the entry, of each layer and of the exit."""
    watch = _Watch(device)
    recomputed = [bool(getattr(layer, "gradient_checkpointing", False)) for layer in pieces.layers]
    handles = [layer.register_forward_pre_hook(watch.enter) for layer in pieces.layers]
    handles.append(pieces.layers[-1].register_forward_hook(watch.leave))
    _recompute(pieces, [False] * len(recomputed))  # else layers would be entered twice
    try:
        begin = watch.now()
        value = loss()
        middle = watch.now()
        value.backward()
        end = watch.now()
    finally:
        _recompute(pieces, recomputed)
        for handle in handles:
            handle.remove()
        for module in (*pieces.entry, *pieces.layers, *pieces.exit):
            module.zero_grad(set_to_none=True)
    there = [begin, *watch.forward, middle]
    back = [middle, *watch.backward, *[end] * (len(there) - 1 - len(watch.backward))]
    forward = [after - before for before, after in pairwise(there)]
    backward = [after - before for before, after in pairwise(back)][::-1]
    twice = [False, *recomputed, False]
    return [ahead * (1 + again) + behind for ahead, behind, again in zip(forward, backward, twice, strict=True)]


def _recompute(pieces: Pieces, wanted: list[bool]) -> None:
    for layer, value in zip(pieces.layers, wanted, strict=True):
        if hasattr(layer, "gradient_checkpointing"):
            layer.gradient_checkpointing = value


class _Watch:
    """Notes when hidden states, and later their gradients, pass from one piece to the next."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.forward: list[float] = []
        self.backward: list[float] = []

    def now(self) -> float:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize(self._device)
        return perf_counter()

    def enter(self, _: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self._note(args[0])

    def leave(self, _: torch.nn.Module, __: object, hidden: torch.Tensor) -> None:
        self._note(hidden)

    def _note(self, hidden: torch.Tensor) -> None:
        self.forward.append(self.now())
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self.backward.append(self.now()))
