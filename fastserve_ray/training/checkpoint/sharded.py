"""Slices of a DeepSpeed engine: each rank's own part of the flat fp32 groups, without any exchange.

DeepSpeed joins parameters to flat groups and gives every rank a part. ZeRO 1 and 2 and the bf16 optimizer keep the
address of a parameter's fragment in ``_hp_mapping`` (deepspeed/utils/tensor_fragment.py); ZeRO-3 cuts every parameter
into equal parts, padded at the end, with addresses in ``grad_position`` (deepspeed/runtime/zero/stage3.py). The
optimizer's state lies at the same address of tensors that are shaped like the flat group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.training.checkpoint.plain import buffer_slices, load_buffers, scalar_slice, whole_place
from fastserve_ray.training.checkpoint.slices import WEIGHT, Slice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.training.checkpoint.place import Place
    from fastserve_ray.training.checkpoint.plain import PlaceOf
    from fastserve_ray.training.checkpoint.reader import CheckpointReader

STEP = "step"


def zero_slices(engine: Any, *, data_rank: int, place_of: PlaceOf = whole_place) -> Iterator[Slice]:
    """This rank's fragments of fp32 weights and optimizer state.

    Args:
        data_rank: buffers are written by rank 0 of a data group.
        place_of: where a parameter of the engine's module lies in that of the unwrapped model.
    """
    for name, _, part in _parts(engine, place_of):
        if part is None:
            continue
        for kind in (WEIGHT, *part.kinds):
            yield Slice(kind, name, part.place, part.tensor(kind))
        if part.starts_parameter and STEP in part.state:
            yield scalar_slice(STEP, name, part.state[STEP])
    if data_rank == 0:
        yield from buffer_slices(engine.module)


def load_zero(engine: Any, checkpoint: CheckpointReader, *, place_of: PlaceOf = whole_place) -> None:
    """Put back what any strategy wrote: fragments of this rank, and the weights that the forward pass reads.

    Raises:
        TrainingError: the checkpoint is of another model.
    """
    for name, parameter, part in _parts(engine, place_of):
        if part is not None:
            _load_part(part, checkpoint, name)
        _load_weight(parameter, checkpoint, name, place_of, part)
    load_buffers(engine.module, checkpoint)


def _load_part(part: _Part, checkpoint: CheckpointReader, name: str) -> None:
    kinds = [kind for kind in checkpoint.optimizer_kinds(name) if kind != STEP]
    if kinds:
        part.make_state(kinds, float(checkpoint.full(STEP, name)))
    for kind in (WEIGHT, *kinds):
        part.tensor(kind).copy_(checkpoint.cut(kind, name, part.place))


def _load_weight(
    parameter: Any, checkpoint: CheckpointReader, name: str, place_of: PlaceOf, part: _Part | None
) -> None:
    if not _is_split(parameter):
        values = checkpoint.cut(WEIGHT, name, place_of(name, parameter.shape))
        parameter.data.copy_(values.view(parameter.shape))
        return
    if part is not None:
        parameter.ds_tensor.data.narrow(0, 0, part.place.numel).copy_(checkpoint.cut(WEIGHT, name, part.place))
    if parameter.data.numel() == parameter.ds_numel:  # small ones that every rank keeps
        values = checkpoint.cut(WEIGHT, name, place_of(name, parameter.ds_shape))
        parameter.data.copy_(values.view(parameter.ds_shape))


@dataclass(frozen=True)
class _Part:
    """What this rank holds of one parameter: elements [offset, offset + place.numel) of a flat group."""

    place: Place
    starts_parameter: bool
    base: Any
    """The optimizer that DeepSpeed wraps."""
    flat: torch.Tensor
    offset: int

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.base.state.get(self.flat, {})
        return state

    @property
    def kinds(self) -> list[str]:
        """Of optimizer state with a value for every element."""
        return [kind for kind, value in self.state.items() if torch.is_tensor(value) and value.shape == self.flat.shape]

    def tensor(self, kind: str) -> torch.Tensor:
        """A view."""
        flat = self.flat.data if kind == WEIGHT else self.state[kind]
        return flat.narrow(0, self.offset, self.place.numel)

    def make_state(self, kinds: list[str], step: float) -> None:
        """What the optimizer makes in its first step; parameters of a group share the count of steps."""
        state = self.base.state[self.flat]
        for kind in kinds:
            if kind not in self.kinds:
                state[kind] = torch.zeros_like(self.flat.data)
        step = max(step, float(state.get(STEP, 0)))
        is_from_torch = type(self.base).__module__.startswith("torch.")
        state[STEP] = torch.tensor(step) if is_from_torch else int(step)


def _parts(engine: Any, place_of: PlaceOf) -> Iterator[tuple[str, Any, _Part | None]]:
    """Trained parameters, each with what this rank holds of it, if anything."""
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            find = _split_part if _is_split(parameter) else _linked_part
            yield name, parameter, find(engine.optimizer, parameter, name, place_of)


def _is_split(parameter: Any) -> bool:
    """By ZeRO-3."""
    return hasattr(parameter, "ds_id")


def _linked_part(optimizer: Any, parameter: Any, name: str, place_of: PlaceOf) -> _Part | None:
    link = parameter._hp_mapping
    if link is None:
        return None
    low, high = link.lp_fragment_address, link.hp_fragment_address
    place = place_of(name, parameter.shape).flat(low.start, low.numel)
    base = optimizer.optimizer
    flat = base.param_groups[link.param_group_index]["params"][0]
    return _Part(place, low.start == 0, base, flat, high.start)


def _split_part(optimizer: Any, parameter: Any, name: str, place_of: PlaceOf) -> _Part | None:
    group, offset, width = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start = width * optimizer._get_param_partition_rank(parameter)
    numel = min(width, parameter.ds_numel - start)
    if numel <= 0:
        return None
    place = place_of(name, parameter.ds_shape).flat(start, numel)
    flat = optimizer.fp32_partitioned_groups_flat[group]
    return _Part(place, start == 0, optimizer.optimizer, flat, offset)
