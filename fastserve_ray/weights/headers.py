"""What is known of pieces without their tensors, in processes that import no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies."""

    object_number: int
    """In its piece."""
    position: int
    """In its object."""
    dtype: str
    """As torch calls it, without ``torch.``."""
    shape: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True)
class PieceHeader:
    """What a reader knows of a piece before it reads the tensors."""

    name: str
    structure: bytes
    tensors: tuple[TensorEntry, ...]

    @property
    def num_objects(self) -> int:
        return 1 + max((entry.object_number for entry in self.tensors), default=-1)

    @property
    def num_bytes(self) -> int:
        """Of the tensors."""
        return sum(entry.num_bytes for entry in self.tensors)
