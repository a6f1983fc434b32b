"""Ranks over pieces of their shares give the tokens of the whole model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fastserve_ray.compress.quantize import quantize_model
from fastserve_ray.engines.table import open_engine
from fastserve_ray.engines.torch.shards.stored import SharesBuilder, assemble_share, belongs_to
from fastserve_ray.errors import EngineError
from fastserve_ray.models.compressed import save_compressed
from fastserve_ray.spec.compress import QuantizeStep
from tests.engines.tiny import build_model, build_tokenizer
from tests.engines.torch.shards.ranks import open_over_threads, save
from tests.engines.torch.test_stored import check_in_place, tokens

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.engines.torch.shards.collectives import Collectives
    from fastserve_ray.engines.torch.shards.factory import Seat
    from fastserve_ray.models.pieces import Piece


@dataclass(frozen=True)
class Shelf:
    """See `shards.factory.ReadShare`."""

    pieces: list[Piece]

    def of(self, rank: int) -> list[Piece]:
        return [piece for piece in self.pieces if belongs_to(piece.name, rank)]

    def __call__(self, collectives: Collectives, seat: Seat, device: torch.device) -> tuple[Any, Any, bool]:
        return *assemble_share(self.of(collectives.rank), collectives, device), True


def shelf_of(folder: Path, num_ranks: int, *, num_shards: int = 2) -> Shelf:
    builder = SharesBuilder(partial(str, folder), num_ranks)
    return Shelf([piece for shard in range(num_shards) for piece in builder.pieces(shard, num_shards)])


@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", {}), ("qwen2", {"tie_word_embeddings": True}), ("gpt2", {}), ("gemma3_text", {})],
)
def test_tokens_are_those_of_the_model(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    folder = save(build_model(family, **changes), tmp_path)
    shelf = shelf_of(folder, 2)
    engine: Any = open_over_threads(shelf, 2, tmp_path / "meeting")
    try:
        assert tokens(engine) == tokens(open_engine(folder, "text-generation"))
        check_in_place(engine._runner, shelf.of(0))
    finally:
        engine.close()


def test_shares_are_cut_and_not_whole(tmp_path: Path) -> None:
    folder = save(build_model("llama", num_hidden_layers=3, hidden_size=256, intermediate_size=512), tmp_path)
    whole = sum(piece.num_bytes for piece in shelf_of(folder, 1).of(0))
    shelf = shelf_of(folder, 2)
    for rank in range(2):
        assert sum(piece.num_bytes for piece in shelf.of(rank)) < 0.55 * whole
    assert len({piece.name for piece in shelf.pieces}) == len(shelf.pieces) == 2 * (3 + 1)


def test_int8_shares(tmp_path: Path) -> None:
    model = build_model()
    quantize_model(model, QuantizeStep(kind="quantize", scheme="int8-dynamic"))
    save_compressed(model, build_tokenizer(), tmp_path, scheme="int8-dynamic")
    shelf = shelf_of(tmp_path, 2, num_shards=1)
    assert any(tensor.dtype == torch.int8 for piece in shelf.pieces for tensor in piece.tensors)
    found = []
    sources: list[Path | Shelf] = [tmp_path, shelf]
    for at, source in enumerate(sources):
        engine = open_over_threads(source, 2, tmp_path / f"meeting-{at}")
        found.append(tokens(engine))
        engine.close()
    assert found[1] == found[0], "of the same shards out of files"


def test_a_model_that_cannot_be_cut_is_refused_by_its_builder(tmp_path: Path) -> None:
    folder = save(build_model("llama"), tmp_path)
    with pytest.raises(EngineError, match="cannot be shared"):
        shelf_of(folder, 3)


def test_a_share_for_gpus_is_not_packed(tmp_path: Path) -> None:
    folder = save(build_model("llama"), tmp_path)
    pieces = list(SharesBuilder(partial(str, folder), 2, on_gpu=True).pieces(0, 1))
    assert not any(b"PackedLinear" in piece.structure for piece in pieces)
