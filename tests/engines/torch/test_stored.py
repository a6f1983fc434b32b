"""An engine over the pieces of a model gives the tokens of one that loaded it."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from fastserve_ray.compress.quantize import quantize_model
from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.table import open_engine
from fastserve_ray.engines.torch import stored
from fastserve_ray.engines.torch.factory import open_stored_engine
from fastserve_ray.engines.torch.linears import layout
from fastserve_ray.engines.torch.stored import ModelBuilder, assemble, share_out
from fastserve_ray.errors import EngineError
from fastserve_ray.models.compressed import save_compressed
from fastserve_ray.models.pooling import Pooling
from fastserve_ray.spec.compress import QuantizeStep
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import build_classifier, build_encoder, build_model, build_tokenizer, greedy, random_prompts

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.engines.protocol import BatchEngine, GenerateEngine
    from fastserve_ray.models.pooling import PoolingMode

PROMPTS = random_prompts(3)


def save(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(folder)


def tokens(engine: Any) -> list[tuple[int, ...]]:
    requests = [greedy(at, prompt) for at, prompt in enumerate(PROMPTS)]
    return [each.token_ids for each in generate_all(cast("GenerateEngine", engine), requests)]


def pieces_of(builder: ModelBuilder, num_shards: int) -> list[Any]:
    return [piece for shard in range(num_shards) for piece in builder.pieces(shard, num_shards)]


@pytest.mark.parametrize(
    ("family", "changes", "settings"),
    [
        ("llama", {}, {}),
        ("qwen2", {"tie_word_embeddings": True}, {}),
        ("qwen2", {"tie_word_embeddings": True}, {"int8_output_layer": True}),
        ("gemma3_text", {}, {}),
        ("gpt2", {}, {}),
        ("llama", {}, {"dtype": "bfloat16"}),
    ],
)
def test_tokens_are_those_of_the_model(
    tmp_path: Path, family: str, changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    folder = save(build_model(family, **changes), tmp_path)
    spec = EngineSpec(**settings)
    expected = tokens(open_engine(folder, "text-generation", spec))
    pieces = pieces_of(ModelBuilder(partial(str, folder), "text-generation", **settings), 2)
    assert tokens(open_stored_engine(pieces, "text-generation", spec)) == expected


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int8-weight-only"])
def test_quantized_weights(tmp_path: Path, scheme: str) -> None:
    model = build_model()
    quantize_model(model, QuantizeStep(kind="quantize", scheme=scheme))  # type: ignore[arg-type]
    save_compressed(model, build_tokenizer(), tmp_path, scheme=scheme)
    expected = tokens(open_engine(tmp_path, "text-generation"))
    pieces = pieces_of(ModelBuilder(partial(str, tmp_path), "text-generation"), 1)
    assert any(tensor.dtype == torch.int8 for piece in pieces for tensor in piece.tensors)
    assert tokens(open_stored_engine(pieces, "text-generation", EngineSpec())) == expected


@pytest.mark.parametrize("num_labels", [1, 2])
def test_a_classifier_and_a_cross_encoder(tmp_path: Path, num_labels: int) -> None:
    folder = save(build_classifier("bert", num_labels=num_labels), tmp_path)
    texts: list[str | tuple[str, str]] = ["the cat", ("the dog barked", "the cat")]
    expected = cast("BatchEngine", open_engine(folder, "text-classification")).predict(texts)
    pieces = pieces_of(ModelBuilder(partial(str, folder), "text-classification"), 2)
    engine = cast("BatchEngine", open_stored_engine(pieces, "text-classification", EngineSpec()))
    assert engine.predict(texts) == expected
    check_in_place(engine, pieces)


@pytest.mark.parametrize("mode", ["cls", "mean"])
def test_an_embedder_with_its_pooling(tmp_path: Path, mode: PoolingMode) -> None:
    folder = save(build_encoder(), tmp_path)
    Pooling(mode, max_length=7).save(tmp_path, 1)
    texts = ["the cat", "the dog barked at the cat that sat on the mat"]
    plain: Any = open_engine(folder, "text-embedding")
    pieces = pieces_of(ModelBuilder(partial(str, folder), "text-embedding"), 2)
    engine: Any = open_stored_engine(pieces, "text-embedding", EngineSpec())
    assert engine.max_length == 7
    rows = engine.encode(texts, cuts=True)
    assert rows == plain.encode(texts, cuts=True)
    assert engine.embed(rows) == plain.embed(rows)
    check_in_place(engine, pieces)


def test_the_engine_reads_the_pieces_in_place(tmp_path: Path) -> None:
    folder = save(build_model("qwen2", tie_word_embeddings=True), tmp_path)
    pieces = pieces_of(ModelBuilder(partial(str, folder), "text-generation"), 1)
    engine: Any = open_stored_engine(pieces, "text-generation", EngineSpec())
    check_in_place(engine._runner, pieces)


def check_in_place(engine: Any, pieces: list[Any]) -> None:
    """No tensor of the model is anywhere but in ``pieces``."""
    model = engine._model
    own = {each.data_ptr() for tensors in (model.parameters(), model.buffers()) for each in tensors if each.numel()}
    assert own <= {tensor.data_ptr() for piece in pieces for tensor in piece.tensors}
    assert len(own) > 20


def test_shards_are_disjoint_and_the_whole_model(tmp_path: Path) -> None:
    folder = save(build_model(num_hidden_layers=5), tmp_path)
    builder = ModelBuilder(partial(str, folder), "text-generation")
    names = [[piece.name for piece in builder.pieces(shard, 3)] for shard in range(3)]
    assert sorted(chain.from_iterable(names)) == ["", *(f"model.layers.{at}" for at in range(5))]
    assert "" in names[0]
    assert names == [[piece.name for piece in builder.pieces(shard, 3)] for shard in range(3)]


def test_the_shard_with_the_embeddings_gets_fewer_layers() -> None:
    assert share_out([10] * 6, 2, 100) == [[4], [0, 1, 2, 3, 5]]
    assert share_out([10, 10, 10], 1, 30) == [[0, 1, 2]]
    assert share_out([10], 3, 10) == [[0], [], []]


@pytest.mark.skipif(layout() is None, reason="layers are not packed on this processor")
def test_panels_of_another_processor_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(build_model(), tmp_path)
    pieces = pieces_of(ModelBuilder(partial(str, folder), "text-generation"), 1)
    monkeypatch.setattr(stored, "layout", lambda: (3, 1))
    with pytest.raises(EngineError, match="another kind of processor"):
        assemble(pieces, torch.device("cpu"))


def test_for_a_gpu_layers_are_not_packed(tmp_path: Path) -> None:
    model = build_model(tie_word_embeddings=False)
    folder = save(model, tmp_path)
    pieces = pieces_of(ModelBuilder(partial(str, folder), "text-generation", on_gpu=True), 1)
    back = assemble(pieces, torch.device("cpu")).model
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
