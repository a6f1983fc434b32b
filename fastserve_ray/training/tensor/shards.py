"""Which parameters are cut, where, and how to put them together again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from fastserve_ray.training.checkpoint.place import Place
from fastserve_ray.training.tensor.collectives import gather_along

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch.distributed as dist
    from torch import nn

    from fastserve_ray.training.world import World

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Piece:
    """How one parameter is cut."""

    axis: int
    ranges: tuple[Ranges, ...]
    """For each rank, the runs [first, last) along ``axis`` of the whole parameter that it holds, in its order."""

    @property
    def widths(self) -> list[int]:
        """Along ``axis``, of each rank's part."""
        return [sum(last - first for first, last in runs) for runs in self.ranges]

    def cut(self, whole: torch.Tensor, rank: int) -> torch.Tensor:
        """The part of ``rank``; a copy."""
        runs = [whole.narrow(self.axis, first, last - first) for first, last in self.ranges[rank]]
        return torch.cat(runs, dim=self.axis)

    def join(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """The whole parameter from every rank's part."""
        runs = [
            (first, run)
            for part, ranges in zip(parts, self.ranges, strict=True)
            for (first, _), run in zip(
                ranges, part.split([last - first for first, last in ranges], dim=self.axis), strict=True
            )
        ]
        return torch.cat([run for _, run in sorted(runs, key=lambda pair: pair[0])], dim=self.axis)


@dataclass(frozen=True)
class Shards:
    """The parameters of a cut model; without a tensor group nothing is cut."""

    rank: int = 0
    group: dist.ProcessGroup | None = None
    pieces: Mapping[str, Piece] = field(default_factory=dict)
    """By the name of each parameter that is cut; tied ones have a piece under every name."""

    def whole(self, name: str, part: torch.Tensor) -> torch.Tensor:
        """The whole parameter, or anything of its shape, from each rank's part; all ranks of the group call it."""
        piece = self.pieces.get(name)
        if piece is None or self.group is None:
            return part
        return piece.join(gather_along(part, piece.axis, piece.widths, self.group))

    def place(self, name: str, shape: torch.Size) -> Place:
        """Where this rank's part of ``shape`` lies in the whole parameter."""
        piece = self.pieces.get(name)
        if piece is None:
            return Place.whole(shape)
        whole = (*shape[: piece.axis], sum(piece.widths), *shape[piece.axis + 1 :])
        return Place.along(whole, piece.axis, piece.ranges[self.rank])


def whole_state(module: nn.Module, shards: Shards, world: World) -> dict[str, torch.Tensor] | None:
    """Copies on the CPU of the whole state, on worker 0; None on the others. Tensors that share memory go on sharing
    it."""
    if world.data_rank:
        return None
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}
    wholes = {}
    for name, tensor in module.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in copies:
            whole = shards.whole(name, tensor.detach())
            copies[key] = whole.to("cpu", copy=True) if world.is_first else tensor
        wholes[name] = copies[key]
    return wholes if world.is_first else None
