"""The shares of all ranks of a model as pieces, for sharded replicas that read their weights in place.

A share is kept as its rank wants it, cut and packed, so the ranks of one node and of all its replicas have one copy
of it. Its modules refer to the collectives of the process that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastserve_ray.engines.table import check_model
from fastserve_ray.engines.torch.shards.collectives import Collectives
from fastserve_ray.engines.torch.shards.loading import opened_share
from fastserve_ray.engines.torch.stored import ROOT, Whole, assemble, cut_apart, layer_names
from fastserve_ray.models.loading import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from fastserve_ray.models.pieces import Piece


@dataclass(frozen=True)
class SharesBuilder:
    """Reads, cuts and prepares a causal LM for each of its ranks; see `weights.server.Builder`.

    One piece of one rank is in memory at a time.
    """

    folder: Callable[[], str]
    """Where the model is on this node; may have to fetch it. Not a hub id."""
    num_ranks: int
    dtype: str = "auto"
    on_gpu: bool = False
    """Whether the engine runs on GPUs, which want their linear layers as they are."""

    def pieces(self, shard: int, num_shards: int) -> Iterator[Piece]:
        """Those of one server, of all ranks; see `belongs_to`.

        Raises:
            ModelError: the model cannot be read, or its structure cannot be pickled.
            EngineError: it cannot be cut into so many shards.
        """
        folder = self.folder()
        check_model(folder, "text-generation")
        for rank in range(self.num_ranks):
            for piece in self._share(folder, rank, shard, num_shards):
                yield replace(piece, name=_name(rank, piece.name))

    def _share(self, folder: str, rank: int, shard: int, num_shards: int) -> Iterator[Piece]:
        stand_in = Collectives(rank, self.num_ranks, tensors=None, control=None)
        with opened_share(folder, stand_in, dtype=self.dtype) as share:
            layers = tuple(f"{name}." for name in layer_names(share.model))

            def load(name: str) -> None:
                share.fill(
                    [
                        home
                        for home in share.homes
                        if (home.startswith(f"{name}.") if name != ROOT else not home.startswith(layers))
                    ]
                )

            whole = Whole.of(share.model.eval(), load_tokenizer(folder), packs=not self.on_gpu)
            yield from cut_apart(whole, shard, num_shards, load=load, shared=(stand_in,))


def belongs_to(name: str, rank: int) -> bool:
    """Whether the piece of this name is of the rank's share."""
    return name.startswith(_name(rank, ""))


def assemble_share(pieces: Sequence[Piece], collectives: Collectives, device: torch.device) -> tuple[Any, Any]:
    """A rank's share, of all its pieces, on ``device``; on a CPU over their tensors in place. And the tokenizer.

    Raises:
        EngineError: the share was prepared for another kind of processor.
    """
    own = _name(collectives.rank, "")
    whole = assemble(
        [replace(piece, name=piece.name.removeprefix(own)) for piece in pieces], device, shared=(collectives,)
    )
    return whole.model, whole.tokenizer


def _name(rank: int, name: str) -> str:
    return f"{rank}/{name}"
