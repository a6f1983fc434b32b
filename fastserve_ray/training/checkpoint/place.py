"""Where the elements of a tensor lie in a whole parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Run = tuple[int, int]
"""[first, last) along an axis."""


@dataclass(frozen=True)
class Place:
    """A part of a parameter: runs along one axis, joined in their order, and of that the elements [start, start +
    numel) in row-major order. Tensor parallelism cuts runs, ZeRO cuts flat ranges, both together cut a flat range of
    runs."""

    shape: tuple[int, ...]
    """Of the whole parameter."""
    axis: int
    runs: tuple[Run, ...]
    """Along ``axis``, in the order in which the part holds them; empty: the whole parameter."""
    start: int
    numel: int

    @classmethod
    def whole(cls, shape: Iterable[int]) -> Place:
        """All of a parameter."""
        sizes = tuple(shape)
        return cls(sizes, 0, (), 0, math.prod(sizes))

    @classmethod
    def along(cls, shape: Iterable[int], axis: int, runs: Iterable[Run]) -> Place:
        """Runs along ``axis`` of a parameter of ``shape``."""
        whole = cls(tuple(shape), axis, tuple(runs), 0, 0)
        return replace(whole, numel=math.prod(whole.part_shape))

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Of the joined runs, before the flat range is cut."""
        if not self.runs:
            return self.shape
        width = sum(last - first for first, last in self.runs)
        return (*self.shape[: self.axis], width, *self.shape[self.axis + 1 :])

    def flat(self, start: int, numel: int) -> Place:
        """The elements [start, start + numel) of this place."""
        assert 0 <= start <= start + numel <= self.numel, (self, start, numel)
        return replace(self, start=self.start + start, numel=numel)

    def share(self, rank: int, size: int) -> Place:
        """Part ``rank`` of ``size`` nearly equal ones; may be empty."""
        first, last = self.numel * rank // size, self.numel * (rank + 1) // size
        return self.flat(first, last - first)

    def cut(self, whole: torch.Tensor) -> torch.Tensor:
        """The elements, one-dimensional; a view where memory allows it."""
        return self._joined(whole).reshape(-1).narrow(0, self.start, self.numel)

    def paste(self, whole: torch.Tensor, values: torch.Tensor) -> None:
        """Write ``values`` (one-dimensional) into ``whole`` (contiguous)."""
        if not self.runs:
            whole.view(-1).narrow(0, self.start, self.numel).copy_(values)
            return
        joined = self._joined(whole).reshape(-1).clone()
        joined.narrow(0, self.start, self.numel).copy_(values)
        widths = [last - first for first, last in self.runs]
        parts = joined.view(self.part_shape).split(widths, dim=self.axis)
        for (first, last), part in zip(self.runs, parts, strict=True):
            whole.narrow(self.axis, first, last - first).copy_(part)

    def _joined(self, whole: torch.Tensor) -> torch.Tensor:
        if not self.runs:
            return whole
        views = [whole.narrow(self.axis, first, last - first) for first, last in self.runs]
        return views[0] if len(views) == 1 else torch.cat(views, dim=self.axis)

    def to_json(self) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "axis": self.axis,
            "runs": [list(run) for run in self.runs],
            "start": self.start,
            "numel": self.numel,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Place:
        runs = tuple((int(first), int(last)) for first, last in record["runs"])
        return cls(tuple(record["shape"]), record["axis"], runs, record["start"], record["numel"])
