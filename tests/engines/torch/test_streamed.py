"""Layers that come while the engine runs."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fastserve_ray.engines.table import open_engine
from fastserve_ray.engines.torch.factory import open_streamed_engine
from fastserve_ray.engines.torch.fused import FusedLayer
from fastserve_ray.engines.torch.linears import layout
from fastserve_ray.engines.torch.stored import ROOT, ModelBuilder
from fastserve_ray.engines.torch.streamed import LayerStream
from fastserve_ray.models.pieces import Outline
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import build_model
from tests.engines.torch.test_stored import save, tokens

if TYPE_CHECKING:
    from pathlib import Path


class Shelf:
    """Gives copies of layers, and knows how many of them somebody still holds."""

    def __init__(self, folder: str, **settings: Any) -> None:
        pieces = ModelBuilder(partial(str, folder), "text-generation", **settings).pieces(0, 1)
        self.pieces = {piece.name: piece for piece in pieces}
        self.root = self.pieces.pop(ROOT)
        self.held: dict[int, weakref.ref[Any]] = {}
        self.most_held = 0
        self.reads: list[str] = []

    def outlines(self) -> list[Outline]:
        return [
            Outline(piece.name, piece.structure, tuple(tensor.dtype for tensor in piece.tensors))
            for piece in self.pieces.values()
        ]

    def read(self, name: str) -> list[torch.Tensor]:
        self.reads.append(name)
        copies = [tensor.clone() for tensor in self.pieces[name].tensors]
        memory = copies[0].view(torch.uint8).numpy()
        self.held[len(self.reads)] = weakref.ref(memory)
        self.most_held = max(self.most_held, sum(each() is not None for each in self.held.values()))
        return [torch.from_numpy(memory).view(copies[0].dtype), *copies[1:]]


@pytest.mark.parametrize(
    ("family", "settings"),
    [("llama", {}), ("qwen2", {"int8_output_layer": True}), ("gpt2", {}), ("mistral", {"dtype": "bfloat16"})],
)
def test_tokens_are_those_of_the_plain_engine(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    folder = save(build_model(family, num_hidden_layers=5), tmp_path)
    spec = EngineSpec(**settings)
    expected = tokens(open_engine(folder, "text-generation", spec))
    shelf = Shelf(folder, **settings)
    engine, stream = open_streamed_engine(shelf.root, shelf.outlines(), shelf.read, spec)
    assert tokens(engine) == expected
    stream.close()
    names = list(shelf.pieces)
    assert shelf.reads == [names[at % 5] for at in range(len(shelf.reads))]
    assert len(shelf.reads) > 50


@pytest.mark.skipif(layout() is None, reason="layers are not fused on this processor")
def test_streamed_layers_are_fused(tmp_path: Path) -> None:
    shelf = Shelf(save(build_model("llama"), tmp_path))
    engine, stream = open_streamed_engine(shelf.root, shelf.outlines(), shelf.read, EngineSpec())
    runner: Any = engine
    assert all(isinstance(layer.inner, FusedLayer) for layer in runner._runner._model.model.layers)
    stream.close()


def test_two_layers_are_held_at_most(tmp_path: Path) -> None:
    shelf = Shelf(save(build_model("llama", num_hidden_layers=6), tmp_path))
    gc.disable()
    try:
        engine, stream = open_streamed_engine(shelf.root, shelf.outlines(), shelf.read, EngineSpec())
        tokens(engine)
    finally:
        gc.enable()
    stream.close()
    assert shelf.most_held == 2


def test_a_read_that_failed_is_tried_again() -> None:
    failures = [OSError("lost")]

    def read(name: str) -> list[torch.Tensor]:
        if name == "b" and failures:
            raise failures.pop()
        return [torch.tensor(ord(name))]

    stream = LayerStream(read, ["a", "b"])
    assert stream.take(0) == [torch.tensor(ord("a"))]
    with pytest.raises(OSError, match="lost"):
        stream.take(1)
    assert stream.take(0) == [torch.tensor(ord("a"))]
    assert stream.take(1) == [torch.tensor(ord("b"))]
    stream.close()
