"""A module in pieces: its structure as bytes, and its tensors apart, so that many processes can share the tensors.

The structure is a pickle in which every tensor and every shared configuration is a number. Putting it together again
runs no initialisation and copies no tensor. Only unpickle what comes from a process of the same cluster.
"""

from __future__ import annotations

import ctypes
import io
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fastserve_ray.errors import ModelError
from fastserve_ray.native.library import load_library

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TENSOR, _PARAMETER, _SHARED = "tensor", "parameter", "shared"


@dataclass(frozen=True)
class Piece:
    """One part of a model."""

    name: str
    """Of the module, as in ``named_modules``; empty for the model without its layers."""
    structure: bytes
    tensors: tuple[torch.Tensor, ...]
    """Those that ``structure`` counts; each memory once."""

    @property
    def num_bytes(self) -> int:
        """Of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)


def take_apart(name: str, thing: object, shared: Sequence[object] = ()) -> Piece:
    """``thing`` (a module, or what holds modules) as a piece; it stays whole.

    Args:
        shared: objects that several pieces refer to; the one who puts the piece together gives them again.

    Raises:
        ModelError: something in it cannot be pickled.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, shared)
    try:
        pickler.dump(thing)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"this model cannot be taken apart ({error})", value=type(thing).__name__) from error
    return Piece(name, file.getvalue(), tuple(pickler.tensors))


@dataclass(frozen=True)
class Outline:
    """A piece without its tensors."""

    name: str
    structure: bytes
    dtypes: tuple[torch.dtype, ...]
    """Of the tensors."""


class Shell:
    """What `take_apart` took apart, without memory for its tensors: they come and go.

    Attributes:
        thing: the module. It can be used between `fill` and `empty`.
    """

    def __init__(self, outline: Outline, shared: Sequence[object] = ()) -> None:
        self._nothing = [torch.empty(0, dtype=dtype) for dtype in outline.dtypes]
        places = [nothing.clone() for nothing in self._nothing]
        unpickler = _Unpickler(io.BytesIO(outline.structure), places, shared)
        self.thing: Any = unpickler.load()
        self._holders = [unpickler.parameters.get(at, place) for at, place in enumerate(places)]

    def fill(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put ``tensors`` in their places; no copy is made."""
        for holder, tensor in zip(self._holders, tensors, strict=True):
            holder.data = tensor

    def empty(self) -> None:
        """Let go of the tensors."""
        self.fill(self._nothing)


def put_together(structure: bytes, tensors: Sequence[torch.Tensor], shared: Sequence[object] = ()) -> Any:
    """What `take_apart` took apart, over ``tensors`` in place. Parameters ask for no gradient."""
    return _Unpickler(io.BytesIO(structure), tensors, shared).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: Sequence[object]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._shared = {id(each): at for at, each in enumerate(shared)}
        self._places: dict[int, int] = {}
        self.tensors: list[torch.Tensor] = []

    def persistent_id(self, obj: object) -> tuple[str, int] | None:
        if isinstance(obj, torch.Tensor):
            kind = _PARAMETER if isinstance(obj, nn.Parameter) else _TENSOR
            return kind, self._place(obj)
        at = self._shared.get(id(obj))
        return None if at is None else (_SHARED, at)

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, ctypes.CDLL):
            reduced: tuple[Callable[..., Any], tuple[Any, ...]] = (load_library, ())
            return reduced
        return NotImplemented

    def _place(self, tensor: torch.Tensor) -> int:
        place = self._places.get(id(tensor))
        if place is None:
            place = self._places[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor.detach())
        return place


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: Sequence[torch.Tensor], shared: Sequence[object]) -> None:
        super().__init__(file)
        self._tensors = tensors
        self._shared = shared
        self.parameters: dict[int, nn.Parameter] = {}

    def persistent_load(self, pid: tuple[str, int]) -> object:
        kind, at = pid
        if kind == _SHARED:
            return self._shared[at]
        if kind == _TENSOR:
            return self._tensors[at]
        if at not in self.parameters:
            self.parameters[at] = nn.Parameter(self._tensors[at], requires_grad=False)
        return self.parameters[at]
