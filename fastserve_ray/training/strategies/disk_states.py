"""Master weights and Adam's moments of a ZeRO rank in a mapped file.

12 bytes a parameter of the rank's share leave its private memory. They are read and written once in each update, in
order; between updates they are not needed. The file is mapped, so the optimizer works on it as on any tensor, and the
kernel reads, writes back and takes away its pages: with memory to spare they stay cached and cost little, without it
they are read from the disk. It has no name: nothing is left behind, whatever ends the process.

DeepSpeed's own swapping (ZeRO-Infinity's async_io) needs libaio's headers and a compiler on every node, and copies
through pinned buffers; this needs neither.
"""

from __future__ import annotations

import mmap
import os
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.training.strategies.offload import unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MOMENTS = ("exp_avg", "exp_avg_sq")
_WIDTH = 4
"""Bytes of an fp32 element."""


class DiskStates:
    """Takes over the flat fp32 tensors of one rank and the moments that belong to them."""

    def __init__(self, folder: Path, masters: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Move the values of ``masters`` to a file in ``folder``, and begin moments there at zero.

        Args:
            masters: fp32 on the CPU, each the one parameter of its step of ``optimizer``; they are changed in place.

        Raises:
            TrainingError: the disk is full, or takes no files.
        """
        numels = [master.numel() for master in masters for _ in range(1 + len(MOMENTS))]
        self.num_bytes = _WIDTH * sum(numels)
        try:
            self.file = TemporaryFile(dir=folder)  # noqa: SIM115
            os.posix_fallocate(self.file.fileno(), 0, self.num_bytes)  # a full disk is an error now, not SIGBUS later
            self._map = mmap.mmap(self.file.fileno(), self.num_bytes)
        except OSError as error:
            raise unusable(folder, error) from error
        tensors = self._tensors(numels)
        for master in masters:
            master.data = next(tensors).copy_(master.data)
            optimizer.state[master] = {"step": torch.tensor(0.0)} | {kind: next(tensors) for kind in MOMENTS}
        start = masters[0].data_ptr()
        self._addresses = range(start, start + self.num_bytes)
        self.release()

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` lies in the file."""
        return tensor.data_ptr() in self._addresses

    def release(self) -> None:
        """Take the pages out of this process; changed ones are the kernel's to write. Tensors stay as they are."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def _tensors(self, numels: Sequence[int]) -> Iterator[torch.Tensor]:
        """Of fp32 zeros, one behind the other."""
        place = 0
        for numel in numels:
            yield torch.frombuffer(self._map, dtype=torch.float32, count=numel, offset=place)
            place += _WIDTH * numel


def masters_of(engine: Any) -> list[torch.Tensor]:
    """The flat fp32 tensors that a DeepSpeed engine's optimizer changes, in stage 1, 2 and 3."""
    optimizer = engine.optimizer
    is_split = engine.zero_optimization_stage() == 3
    masters: list[torch.Tensor] = (
        optimizer.fp32_partitioned_groups_flat if is_split else optimizer.single_partition_of_fp32_groups
    )
    return masters


def move_to_disk(engine: Any, folder: Path) -> DiskStates:
    """Of a new DeepSpeed engine, whose optimizer has no state yet."""
    states = DiskStates(folder, masters_of(engine), engine.optimizer.optimizer)
    if engine.zero_optimization_stage() < 3:
        engine.optimizer._link_all_hp_params()  # its views keep the memory of what they were made of
    return states
