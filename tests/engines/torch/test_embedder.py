from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from fastserve_ray.engines.torch.embedder import TorchEmbedder
from fastserve_ray.models.pooling import Pooling
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import build_encoder, build_model, build_tokenizer

if TYPE_CHECKING:
    from fastserve_ray.models.pooling import PoolingMode

TEXTS = ["the cat sat", "köln", "the dog barked at the cat and the mat " * 3, "a", "the cat sat"]


def build(pooling: Pooling | None = None, **spec: Any) -> TorchEmbedder:
    return TorchEmbedder(build_encoder(), build_tokenizer(), pooling or Pooling(), EngineSpec(**spec))


def alone(text: str, mode: str, *, normalizes: bool) -> torch.Tensor:
    """One text without any padding, pooled in so many words."""
    ids = torch.tensor([build_tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        hidden = build_encoder()(input_ids=ids).last_hidden_state[0]
    vectors = {"mean": hidden.mean(0), "cls": hidden[0], "lasttoken": hidden[-1], "max": hidden.max(0).values}
    return vectors[mode] / vectors[mode].norm() if normalizes else vectors[mode]


@pytest.mark.parametrize("normalizes", [True, False])
@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "max"])
def test_vectors_are_those_of_each_text_alone(mode: PoolingMode, normalizes: bool) -> None:
    engine = build(Pooling(mode, normalizes))
    vectors = engine.embed(engine.encode(TEXTS))
    for text, vector in zip(TEXTS, vectors, strict=True):
        torch.testing.assert_close(
            torch.tensor(vector.numbers), alone(text, mode, normalizes=normalizes), atol=1e-5, rtol=1e-4
        )


def test_tokens_stay_as_they_are_and_cuts_keep_the_models_length() -> None:
    engine = build(Pooling(max_length=6))
    assert engine.max_length == 6
    assert engine.encode([(3, 4), "the cat"])[0] == (3, 4)
    long = "the dog barked at the cat on the mat"
    assert len(engine.encode([long])[0]) > 6
    assert [len(row) for row in engine.encode([long, tuple(range(9))], cuts=True)] == [6, 6]
    assert engine.encode([]) == []
    assert engine.embed([]) == []


def test_a_decoder_embeds_too() -> None:
    model = build_model("llama").model
    engine = TorchEmbedder(model, build_tokenizer(), Pooling("lasttoken"), EngineSpec())
    (vector,) = engine.embed(engine.encode(["the cat"]))
    assert len(vector.numbers) == engine.dimensions == model.config.hidden_size
