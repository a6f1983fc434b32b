"""Tensors between neighbouring stages."""

from __future__ import annotations

from collections import deque
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from fastserve_ray.training.world import rank_lists

if TYPE_CHECKING:
    from fastserve_ray.training.world import World

IN_FLIGHT = 2
"""Sends that may wait for their receiver. One would do for any schedule; with none, two neighbours that both send
first would wait for each other."""


class Channel:
    """One direction through the pipeline. Activations and gradients have a process group each: NCCL carries out what
    goes through one group in order, and neighbours send to each other in different orders.

    Args:
        source: rank that this stage receives from; None for none.
        target: rank that this stage sends to; None for none.
    """

    def __init__(self, group: dist.ProcessGroup, source: int | None, target: int | None, device: str) -> None:
        self._group = group
        self._source = source
        self._target = target
        self._device = device
        self._sent: deque[tuple[dist.Work, torch.Tensor]] = deque()

    def send(self, tensor: torch.Tensor) -> None:
        """Give ``tensor`` to the neighbour, as float32, and go on; it must not be written to until ``flush``."""
        if self._target is None:
            return
        while len(self._sent) >= IN_FLIGHT:
            self._wait()
        tensor = tensor.detach().float().contiguous()
        work = dist.isend(tensor, self._target, group=self._group)
        assert work is not None
        self._sent.append((work, tensor))

    def receive(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Wait for the neighbour's next tensor; both sides know its shape from the batch."""
        assert self._source is not None
        tensor = torch.empty(shape, device=self._device)
        dist.recv(tensor, self._source, group=self._group)
        return tensor

    def flush(self) -> None:
        """Wait until all is received."""
        while self._sent:
            self._wait()

    def _wait(self) -> None:
        work, _ = self._sent.popleft()
        work.wait()


def make_channels(world: World) -> tuple[Channel, Channel]:
    """Activations towards the last stage, and gradients towards the first. All ranks call it together."""
    group, stage = world.pipeline_group, world.pipeline_rank
    assert group is not None
    ranks: list[int] = dist.get_process_group_ranks(group)
    before = ranks[stage - 1] if stage else None
    after = ranks[stage + 1] if stage + 1 < len(ranks) else None
    back = _second_group(world.rank, world.size, world.tensor_size, world.pipeline_size, id(dist.group.WORLD))
    return Channel(group, before, after, world.device), Channel(back, after, before, world.device)


@cache
def _second_group(rank: int, size: int, tensor: int, pipeline: int, world: int) -> dist.ProcessGroup:
    """Another group of the ranks of each pipeline.

    Args:
        world: tells one process group from the next.
    """
    lists = rank_lists(size, tensor, pipeline)[2]
    groups = [dist.new_group(ranks) for ranks in lists]
    return next(group for group, ranks in zip(groups, lists, strict=True) if rank in ranks)
