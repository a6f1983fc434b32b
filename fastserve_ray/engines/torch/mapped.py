"""Gives back the pages of weights that were mapped from a file, as soon as an engine has its own form of them.

A mapping ends when the last tensor in it goes; until then every page that was read stays. Without this a model would
be in memory twice while its layers are packed.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WEIGHT_FILES = (".safetensors",)


class MappedWeights:
    """The files of weights that this process has mapped now; none where there is no /proc."""

    def __init__(self, maps: Path = Path("/proc/self/maps")) -> None:
        self._ranges: list[tuple[int, int]] = []
        lines = maps.read_text().splitlines() if maps.exists() else []
        for line in lines:
            bounds, _, rest = line.partition(" ")
            if rest.endswith(WEIGHT_FILES):
                begin, _, end = bounds.partition("-")
                self._ranges.append((int(begin, 16), int(end, 16)))

    def release(self, tensor: torch.Tensor) -> int:
        """Let go of the pages that are ``tensor``'s alone, which nobody must have written to or read after this.

        Returns:
            bytes given back; 0 when it does not lie in a file.
        """
        page = mmap.PAGESIZE
        begin = -(-tensor.data_ptr() // page) * page
        end = (tensor.data_ptr() + tensor.nbytes) // page * page
        if begin >= end or not any(first <= begin and end <= last for first, last in self._ranges):
            return 0
        advice = ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
        return 0 if advice else end - begin
