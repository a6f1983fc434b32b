"""Which blocks of the cache a query reads, and which tokens in them it may see; tensors only, so a graph can hold it.

A block has one place in every sequence that shares it: prefixes are shared from the beginning, and completions of one
prompt share it whole. So the place of every block, one number, says which positions its slots hold. A query may see a
slot if its own sequence's table has that block at that place, and the position is not behind it nor out of the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

QUERY_BLOCK = 128
"""Queries that share a list of blocks; flex attention's default, and a multiple of all of its tiles."""


class Places:
    """For each block of the cache, which block of its sequence it is.

    Args:
        num_blocks: of the cache, the scratch block included.
    """

    def __init__(self, num_blocks: int, device: torch.device) -> None:
        self._num_blocks = num_blocks
        self._places = torch.zeros(num_blocks + 1, dtype=torch.int32, device=device)
        """The last entry takes what belongs nowhere."""

    @property
    def of_block(self) -> torch.Tensor:
        """(blocks + 1,) int32."""
        return self._places

    def note(self, table: torch.Tensor, last_positions: torch.Tensor) -> None:
        """Write down the places of the blocks in ``table`` (B, W) up to ``last_positions`` (B,) of each sequence."""
        places = torch.arange(table.shape[1], dtype=torch.int32, device=table.device).expand_as(table)
        is_used = places * BLOCK_SIZE <= last_positions[:, None]
        blocks = torch.where(is_used, table, self._num_blocks)
        self._places.index_put_((blocks.reshape(-1).long(),), places.reshape(-1))


@dataclass(frozen=True, slots=True)
class Queries:
    """Query tokens of B sequences, R of each, against the cache."""

    table: torch.Tensor
    """(B, W) int32: the blocks of each sequence; what is behind its end does not matter."""
    positions: torch.Tensor
    """(B, R) int32, ascending by one in each sequence."""
    places: torch.Tensor
    """Of `Places.of_block`."""

    def visible_blocks(self, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """For each run of `QUERY_BLOCK` queries the blocks that any of them sees.

        Returns:
            how many (B, 1, Q), and which (B, 1, Q, W), both int32; W is the table's width.
        """
        width, num_rows = self.table.shape[1], self.positions.shape[1]
        num_runs = -(-num_rows // QUERY_BLOCK)
        starts = torch.arange(num_runs, device=self.table.device) * QUERY_BLOCK
        lowest = self.positions[:, starts]
        highest = self.positions[:, (starts + QUERY_BLOCK - 1).clamp(max=num_rows - 1)]
        first = torch.zeros_like(lowest) if window is None else (lowest - window + 1).clamp(min=0) // BLOCK_SIZE
        counts = highest // BLOCK_SIZE - first + 1
        at = first[..., None] + torch.arange(width, dtype=torch.int32, device=self.table.device)
        table = self.table[:, None].expand(-1, num_runs, -1)
        return counts[:, None], table.gather(2, at.clamp(max=width - 1).long())[:, None].contiguous()


def mask_function(
    table: torch.Tensor, positions: torch.Tensor, places: torch.Tensor, window: int | None
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Whether query (b, row) sees a slot, as flex attention asks it: scalar or broadcast index tensors to bool.

    Args: table, positions, places as in `Queries`.
    """

    def is_visible(batch: torch.Tensor, head: torch.Tensor, row: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        block = slot // BLOCK_SIZE
        place = places[block]
        position = place * BLOCK_SIZE + slot % BLOCK_SIZE
        query_position = positions[batch, row]
        sees = (table[batch, place] == block) & (position <= query_position)
        return sees if window is None else sees & (position > query_position - window)

    return is_visible
