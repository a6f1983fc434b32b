"""Rows of unequal length to padded tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.tasks.protocol import Row


def pad_right(rows: Sequence[Row], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``input_ids`` and ``attention_mask``, both (B, T) int64, T the longest row."""
    lengths = [len(row["input_ids"]) for row in rows]
    input_ids: np.ndarray[Any, Any] = np.full((len(rows), max(lengths)), pad_token_id, dtype=np.int64)
    mask = np.zeros_like(input_ids)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        input_ids[index, :length] = row["input_ids"]
        mask[index, :length] = 1
    return torch.from_numpy(input_ids), torch.from_numpy(mask)
