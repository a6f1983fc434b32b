"""Slices of a module whose optimizer is plain PyTorch's: state tensors have the shapes of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from fastserve_ray.training.checkpoint.place import Place
from fastserve_ray.training.checkpoint.slices import BUFFER, WEIGHT, Slice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastserve_ray.training.checkpoint.reader import CheckpointReader

PlaceOf = Callable[[str, torch.Size], Place]
"""Where a parameter of this name and of this shape here lies in that of the whole unwrapped model."""


def whole_place(name: str, shape: torch.Size) -> Place:
    """For a module that is not cut."""
    return Place.whole(shape)


def plain_slices(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    share: tuple[int, int] = (0, 1),
    place_of: PlaceOf = whole_place,
) -> Iterator[Slice]:
    """Trained parameters, their optimizer state, and buffers.

    Args:
        share: rank and size of a group that holds the same; each writes a part of every tensor.
        place_of: where a parameter of ``module`` lies in the parameter of the same name of the unwrapped model.
    """
    yield from parameter_slices(module.named_parameters(), optimizer, share=share, place_of=place_of)
    if share[0] == 0:
        yield from buffer_slices(module)


def parameter_slices(
    named: Iterable[tuple[str, torch.nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    *,
    share: tuple[int, int] = (0, 1),
    place_of: PlaceOf = whole_place,
) -> Iterator[Slice]:
    """Those of ``named`` that are trained, with their optimizer state; see ``plain_slices``."""
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        whole = place_of(name, parameter.shape)
        place = whole.share(*share)
        state = {WEIGHT: parameter.detach(), **optimizer.state.get(parameter, {})}
        for kind, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                yield Slice(kind, name, place, value.reshape(-1).narrow(0, place.start - whole.start, place.numel))
            elif share[0] == 0:
                yield scalar_slice(kind, name, value)


def load_plain(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    checkpoint: CheckpointReader,
    *,
    place_of: PlaceOf = whole_place,
) -> None:
    """Put back what ``plain_slices`` gave, or any other strategy.

    Raises:
        TrainingError: the checkpoint is of another model.
    """
    load_parameters(module.named_parameters(), optimizer, checkpoint, place_of=place_of)
    load_buffers(module, checkpoint)


def load_parameters(
    named: Iterable[tuple[str, torch.nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    checkpoint: CheckpointReader,
    *,
    place_of: PlaceOf = whole_place,
) -> None:
    """Those of ``named`` that are trained, and the state of those that ``optimizer`` updates; see ``load_plain``."""
    updated = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        place = place_of(name, parameter.shape)
        values = checkpoint.cut(WEIGHT, name, place)
        parameter.data.copy_(values.view(parameter.shape))
        for kind in checkpoint.optimizer_kinds(name) if id(parameter) in updated else []:
            optimizer.state[parameter][kind] = _state(checkpoint, kind, name, place, parameter)


def _state(checkpoint: CheckpointReader, kind: str, name: str, place: Place, parameter: torch.Tensor) -> torch.Tensor:
    value = checkpoint.full(kind, name)
    if value.shape != place.shape or not place.shape:
        return value.clone()
    cut = place.cut(value).view(parameter.shape)
    return cut.to(device=parameter.device, dtype=parameter.dtype, copy=True)


def scalar_slice(kind: str, name: str, value: torch.Tensor | float) -> Slice:
    """One number, such as the steps that a parameter has taken."""
    return Slice(kind, name, Place.whole(()), torch.as_tensor(value, dtype=torch.float32))


def buffer_slices(module: torch.nn.Module) -> Iterator[Slice]:
    """Buffers that a state dict holds, and that are here."""
    for name, buffer in _buffers(module).items():
        yield Slice(BUFFER, name, Place.whole(buffer.shape), buffer)


def load_buffers(module: torch.nn.Module, checkpoint: CheckpointReader) -> None:
    for name, buffer in _buffers(module).items():
        buffer.copy_(checkpoint.full(BUFFER, name))


def _buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    kept = module.state_dict()
    return {name: buffer for name, buffer in module.named_buffers() if name in kept and not buffer.is_meta}
