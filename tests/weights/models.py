"""Builders of small weights for the tests of the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fastserve_ray.errors import ModelError
from fastserve_ray.models.pieces import Piece

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Layers:
    """Pieces of one tensor each, whose values say what they are; see `weights.server.Builder`."""

    num_pieces: int
    numbers_each: int
    version: int = 0

    def pieces(self, shard: int, num_shards: int) -> Iterator[Piece]:
        for at in range(shard, self.num_pieces, num_shards):
            yield Piece(f"layer-{at}", b"", (self.tensor(at),))

    def tensor(self, at: int) -> torch.Tensor:
        return torch.full((self.numbers_each,), float(100 * self.version + at))

    def check(self, pieces: list[Piece]) -> None:
        """``pieces`` are all of these, each once."""
        assert sorted(piece.name for piece in pieces) == sorted(f"layer-{at}" for at in range(self.num_pieces))
        for piece in pieces:
            (tensor,) = piece.tensors
            assert torch.equal(tensor, self.tensor(int(piece.name.removeprefix("layer-")))), piece.name


@dataclass(frozen=True)
class Missing:
    """A model that cannot be read."""

    def pieces(self, shard: int, num_shards: int) -> Iterator[Piece]:
        raise ModelError("there is no such model folder", value="nowhere", key="model.base")
        yield
