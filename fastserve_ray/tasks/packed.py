"""Rows that hold several documents: attention and positions start anew at each.

Models of transformers that make their mask from ``position_ids`` keep documents apart by themselves when they get no
``attention_mask``. Whether a model does is tried out, on a few tokens. For any other model, and for a recurrent one, a
batch is taken apart into one row a document: the loss is the same, at the price of padding.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastserve_ray.tasks.protocol import Row

IGNORED = -100
"""Label of a position that does not count, as in transformers."""
TRIED_LENGTHS = (3, 5)
"""Tokens of the two documents that a model is tried out on."""
MAX_SHARE = 0.05
"""How much of what attention across documents changes may remain when they are packed with positions; 0 but for
rounding."""

MIXES_DOCUMENTS = (
    "this model cannot keep packed documents apart, or has a learned prompt before each: they are trained one a row, "
    "which gives the same result and costs the time of the padding"
)

_KEEPS_APART: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def is_packed(rows: Sequence[Row]) -> bool:
    """Whether some row holds more than one document."""
    return any(len(row.get("lengths") or ()) > 1 for row in rows)


def positions_of(rows: Sequence[Row], length: int) -> torch.Tensor:
    """Positions (B, T) that start at 0 with every document, and once more where padding starts."""
    positions: np.ndarray[Any, Any] = np.zeros((len(rows), length), dtype=np.int64)
    for index, row in enumerate(rows):
        lengths = list(row.get("lengths") or [len(row["input_ids"])])
        parts = [np.arange(part) for part in [*lengths, length - sum(lengths)]]
        positions[index] = np.concatenate(parts)
    return torch.from_numpy(positions)


def keeps_documents_apart(model: torch.nn.Module) -> bool:
    """Whether ``position_ids`` without a mask keep documents apart in this model; found out once a model.

    The weights must be whole on this process the first time it is asked.
    """
    bare = _unwrapped(model)
    if bare not in _KEEPS_APART:
        _KEEPS_APART[bare] = _takes_positions(bare) and _tried_out(bare)
    return _KEEPS_APART[bare]


def taken_apart(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A packed batch with one document a row, padded on the right; the labels are the same."""
    mask = batch["attention_mask"].bool()
    starts = (batch["position_ids"] == 0) & mask
    document = starts[mask].cumsum(0) - 1
    position = batch["position_ids"][mask]
    shape = (int(document[-1]) + 1, int(position.max()) + 1)
    found = {}
    for name, filler in (("input_ids", 0), ("attention_mask", 0), ("labels", IGNORED)):
        values = batch[name].new_full(shape, filler)
        values[document, position] = batch[name][mask]
        found[name] = values
    return found


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside the wrappers of DistributedDataParallel and DeepSpeed."""
    while isinstance(inner := getattr(model, "module", None), torch.nn.Module):
        model = inner
    return model


def _takes_positions(model: torch.nn.Module) -> bool:
    return "position_ids" in inspect.signature(model.forward).parameters


def _tried_out(model: torch.nn.Module) -> bool:
    """Compares the second of two documents alone, packed with positions, and packed without."""
    first, second = TRIED_LENGTHS
    device = next(model.parameters()).device
    ids = torch.arange(1, 1 + first + second, device=device)[None] % _vocabulary(model)
    positions = torch.cat([torch.arange(first), torch.arange(second)]).to(device)[None]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = _logits(model, ids[:, first:])
            packed = _logits(model, ids, position_ids=positions)[:, first:]
            mixed = _logits(model, ids)[:, first:]
    finally:
        model.train(was_training)
    return float((packed - alone).abs().max()) <= MAX_SHARE * float((mixed - alone).abs().max())


def _logits(model: torch.nn.Module, ids: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, **inputs).logits
    return logits.float()


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
