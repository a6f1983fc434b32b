"""The group of workers as one of them sees it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """Rank and size; a world of one needs no process group."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value added up over all workers; every worker must call it, with as many values."""
        if self.size == 1:
            return list(values)
        device = self.device if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def first_error(self, error: Exception | None) -> Exception | None:
        """The error of the lowest rank that has one, or None; every worker must call it, and all get the same."""
        if self.size == 1:
            return error
        errors: list[Exception | None] = [None] * self.size
        dist.all_gather_object(errors, error)
        return next((found for found in errors if found is not None), None)
