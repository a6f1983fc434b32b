"""The files of a checkpoint by name. Imports no torch: the driver looks for checkpoints."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

FORMAT = 1
"""Of the files; a reader refuses another."""
STATE_FILE = "state.json"


def part_name(rank: int, num_ranks: int) -> str:
    """Of the two files of a rank, without suffix."""
    return f"slices-{rank:05d}-of-{num_ranks:05d}"


def is_complete(names: Collection[str]) -> bool:
    """Whether these files of a folder hold the state and every part of some checkpoint. An index is there only when
    the tensors before it are."""
    sizes = {int(found[1]) for name in names if (found := re.fullmatch(r"slices-\d+-of-(\d+)\.json", name))}
    return STATE_FILE in names and any(
        all(f"{part_name(rank, size)}.json" in names for rank in range(size)) for size in sizes
    )
