"""The group of workers as one of them sees it.

Ranks are laid out as Megatron does (Narayanan et al. 2021, arXiv 2104.04473): tensor fastest, then data, then pipeline.
Ranks of one tensor group sit on one node where they can, and stages of a pipeline, which exchange least, far apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from fastserve_ray.spec import ParallelSpec

Group: TypeAlias = "dist.ProcessGroup | None"


@dataclass(frozen=True)
class World:
    """Rank and size; a world of one needs no process group. ``World.of`` makes the groups of a spread model."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    tensor_size: int = 1
    pipeline_size: int = 1
    data_group: Group = None
    """Ranks that hold the same part of the model and see different rows; None where there is one."""
    tensor_group: Group = None
    """Ranks that hold parts of the same layers and see the same rows; None where there is one."""
    pipeline_group: Group = None
    """Ranks that hold the stages of one pipeline, first stage first; None where there is one."""

    @classmethod
    def of(cls, rank: int, size: int, device: str, parallel: ParallelSpec) -> World:
        """All ranks call it together, once the process group is up."""
        assert size == parallel.num_ranks, (size, parallel)
        tensor, pipeline = parallel.tensor, parallel.pipeline
        if size == 1:
            return cls(rank, size, device)
        data_group, tensor_group, pipeline_group = _groups(rank, size, tensor, pipeline, id(dist.group.WORLD))
        return cls(rank, size, device, tensor, pipeline, data_group, tensor_group, pipeline_group)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def data_size(self) -> int:
        """Into how many shares a batch is cut."""
        return self.size // (self.tensor_size * self.pipeline_size)

    @property
    def data_rank(self) -> int:
        """Which share of a batch is this rank's."""
        return self.rank // self.tensor_size % self.data_size

    @property
    def tensor_rank(self) -> int:
        return self.rank % self.tensor_size

    @property
    def pipeline_rank(self) -> int:
        """Number of the stage."""
        return self.rank // (self.tensor_size * self.data_size)

    def sum(self, *values: float) -> list[float]:
        """Each value added up over all shares of a batch; every worker must call it, with as many values, and workers
        of one share with the same ones."""
        if self.data_size == 1:
            return list(values)
        device = self.device if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, group=self.data_group)
        return [float(value) for value in tensor.tolist()]

    def first_error(self, error: Exception | None) -> Exception | None:
        """The error of the lowest rank that has one, or None; every worker must call it, and all get the same."""
        if self.size == 1:
            return error
        errors: list[Exception | None] = [None] * self.size
        dist.all_gather_object(errors, error)
        return next((found for found in errors if found is not None), None)


def rank_lists(size: int, tensor: int, pipeline: int) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """The ranks of every data, tensor and pipeline group."""
    ranks = torch.arange(size).reshape(pipeline, size // (tensor * pipeline), tensor)
    data = ranks.permute(0, 2, 1).reshape(-1, ranks.shape[1])
    stages = ranks.permute(1, 2, 0).reshape(-1, pipeline)
    return data.tolist(), ranks.reshape(-1, tensor).tolist(), stages.tolist()


@cache
def _groups(rank: int, size: int, tensor: int, pipeline: int, world: int) -> tuple[Group, Group, Group]:
    """Made once for a process group: each holds sockets.

    Args:
        world: tells one process group from the next.
    """
    data, tensors, stages = (_group_of(rank, size, lists) for lists in rank_lists(size, tensor, pipeline))
    return data, tensors, stages


def _group_of(rank: int, size: int, lists: list[list[int]]) -> Group:
    """Every rank makes every group, in the same order."""
    if len(lists[0]) == 1:
        return None
    if len(lists[0]) == size:
        return dist.group.WORLD
    groups = [dist.new_group(ranks) for ranks in lists]
    return next(group for group, ranks in zip(groups, lists, strict=True) if rank in ranks)
