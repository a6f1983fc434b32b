"""Tensors as objects of Ray's store, and back as views into it.

An object is a list of one-dimensional uint8 arrays. Ray writes each array beside the pickle at a multiple of 64 bytes,
and a reader gets arrays that lie in shared memory: no copy, whatever the size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from fastserve_ray.models.pieces import Outline
from fastserve_ray.weights.headers import PieceHeader, TensorEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastserve_ray.models.pieces import Piece

MAX_OBJECT_BYTES = 64 * 2**20
"""Of one object, unless a single tensor is larger. Objects are fetched side by side, and one that is lost or moved
costs so much; much smaller ones cost a call each."""


def describe(piece: Piece, max_object_bytes: int = MAX_OBJECT_BYTES) -> PieceHeader:
    """Share out the tensors of ``piece`` to objects, in their order."""
    entries = []
    number, position, filled = 0, 0, 0
    for tensor in piece.tensors:
        if position and filled + tensor.nbytes > max_object_bytes:
            number, position, filled = number + 1, 0, 0
        kind = str(tensor.dtype).removeprefix("torch.")
        entries.append(TensorEntry(number, position, kind, tuple(tensor.shape), tensor.nbytes))
        position, filled = position + 1, filled + tensor.nbytes
    return PieceHeader(piece.name, piece.structure, tuple(entries))


def outline_of(header: PieceHeader) -> Outline:
    """What a piece is without its tensors."""
    return Outline(header.name, header.structure, tuple(getattr(torch, entry.dtype) for entry in header.tensors))


def objects_of(piece: Piece, header: PieceHeader) -> Iterator[list[np.ndarray]]:
    """The objects of a piece; of tensors that are contiguous no copy is made."""
    for number in range(header.num_objects):
        yield [
            _as_bytes(tensor)
            for tensor, entry in zip(piece.tensors, header.tensors, strict=True)
            if entry.object_number == number
        ]


def tensors_of(header: PieceHeader, objects: Sequence[Sequence[np.ndarray]]) -> list[torch.Tensor]:
    """The tensors of a piece, as views of ``objects``. They must not be written to: all readers of the node share
    them."""
    return [_as_tensor(objects[entry.object_number][entry.position], entry) for entry in header.tensors]


def _as_bytes(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return array


def _as_tensor(array: np.ndarray, entry: TensorEntry) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, entry.dtype)
    if entry.num_bytes == 0:
        return torch.empty(entry.shape, dtype=dtype)
    address, _ = array.__array_interface__["data"]
    owner = _Memory(array, address)
    return torch.from_numpy(np.asarray(owner)).view(dtype).view(entry.shape)


class _Memory:
    """The memory of a read-only array for torch, which knows no such thing and would warn at each tensor."""

    def __init__(self, array: np.ndarray, address: int) -> None:
        self._array = array
        self.__array_interface__ = {"version": 3, "shape": array.shape, "typestr": "|u1", "data": (address, False)}
