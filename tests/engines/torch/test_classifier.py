"""Predictions do not depend on the batch, and come back in order."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from fastserve_ray.engines.protocol import BatchEngine
from fastserve_ray.engines.torch.classifier import TorchClassifier
from fastserve_ray.errors import EngineError
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import build_classifier, build_tokenizer

NAMES = {0: "bad", 1: "good", 2: "neither"}


def build(family: str = "bert", spec: EngineSpec | None = None, **changes: Any) -> TorchClassifier:
    model = build_classifier(family, id2label=NAMES, label2id={name: at for at, name in NAMES.items()}, **changes)
    return TorchClassifier(model, build_tokenizer(), spec if spec is not None else EngineSpec())


def texts(count: int) -> list[str]:
    draw = random.Random(0)
    words = ["the", "cat", "sat", "on", "mat", "and", "dog", "barked", "grüße", "東京", "🙂"]
    return [" ".join(draw.choices(words, k=draw.randint(1, 20))) for _ in range(count)]


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "gpt2", "llama"])
def test_alone_and_together(family: str) -> None:
    engine = build(family)
    assert isinstance(engine, BatchEngine)
    inputs = texts(60)
    together = engine.predict(inputs)
    alone = [engine.predict([text])[0] for text in inputs]
    assert len({prediction.label for prediction in alone}) > 1, "one label for all; compares nothing"
    assert [prediction.label for prediction in together] == [prediction.label for prediction in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert sum(one.scores) == pytest.approx(1, abs=1e-6)
        assert one.label == NAMES[one.label_id]
        assert one.scores[one.label_id] == max(one.scores)


def test_scores_are_those_of_the_model() -> None:
    engine = build()
    ids = build_tokenizer()(texts(1)[0]).input_ids
    with torch.inference_mode():
        want = engine._model(input_ids=torch.tensor([ids])).logits[0].softmax(-1).tolist()
    assert engine.predict(texts(1))[0].scores == pytest.approx(want, abs=1e-6)


def test_long_texts_are_cut() -> None:
    engine = build(spec=EngineSpec(max_model_len=8))
    assert engine.count_tokens("the cat " * 50) == 8
    tokenizer = build_tokenizer()
    cut = tokenizer.decode(tokenizer("the dog and the cat " * 9).input_ids[:8])
    assert engine.predict(["the dog and the cat " * 9])[0].scores == pytest.approx(engine.predict([cut])[0].scores)


def test_positions_after_the_padding_index() -> None:
    engine = build("roberta", max_position_embeddings=20, pad_token_id=1)
    assert engine.count_tokens("the cat " * 50) == 18
    assert len(engine.predict(["the cat " * 50])) == 1


def test_batches_keep_within_budgets() -> None:
    engine = build(spec=EngineSpec(max_num_seqs=4, max_num_batched_tokens=32, max_model_len=24))
    lengths = [1, 24, 3, 9, 8, 8, 8, 8, 8, 20, 12]
    batches = list(engine._rows.batches([[5] * length for length in lengths]))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        width = max(lengths[index] for index in batch)
        assert len(batch) <= 4
        assert len(batch) * width <= 32
        assert width - min(lengths[index] for index in batch) <= 8


def test_empty_input() -> None:
    engine = build()
    assert engine.predict([]) == []
    assert len(engine.predict([""])) == 1
    assert engine.labels == ("bad", "good", "neither")


def test_nan_is_an_error() -> None:
    engine = build()
    with torch.no_grad():
        engine._model.classifier.bias[0] = float("nan")
    with pytest.raises(EngineError, match="not finite"):
        engine.predict(["the cat"])


PAIRS = [("the cat", "sat on the mat"), ("the dog", "barked"), ("grüße", "the cat and the dog and the mat " * 3)]


def pair_tokenizer() -> Any:
    """As BERT's: the second text and its end have type 1."""
    tokenizer = copy.deepcopy(build_tokenizer())
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def test_one_label_scores_pairs_as_the_model_does() -> None:
    model, tokenizer = build_classifier("bert", num_labels=1), pair_tokenizer()
    engine = TorchClassifier(model, tokenizer, EngineSpec())
    found = engine.predict(["the cat", *PAIRS])
    with torch.inference_mode():
        single = model(**tokenizer("the cat", return_tensors="pt", return_token_type_ids=False)).logits
        pairs = [model(**tokenizer(*pair, return_tensors="pt", return_token_type_ids=True)).logits for pair in PAIRS]
    want = [float(torch.sigmoid(logit)) for logit in (single, *pairs)]
    assert [prediction.scores[0] for prediction in found] == pytest.approx(want, abs=1e-5)
    assert engine.count_tokens(PAIRS[0]) == len(tokenizer(*PAIRS[0]).input_ids)


def test_types_matter_to_models_that_are_told_them() -> None:
    model, tokenizer = build_classifier("bert", num_labels=1), pair_tokenizer()
    found = TorchClassifier(model, tokenizer, EngineSpec()).predict(PAIRS[:1])[0].scores[0]
    ids = tokenizer(*PAIRS[0], return_tensors="pt").input_ids
    with torch.inference_mode():
        without = float(torch.sigmoid(model(input_ids=ids).logits))
    assert abs(found - without) > 1e-3


@pytest.mark.parametrize("family", ["distilbert", "roberta", "gpt2", "llama"])
def test_pairs_without_types(family: str) -> None:
    engine = TorchClassifier(build_classifier(family, num_labels=1), pair_tokenizer(), EngineSpec())
    together = [prediction.scores[0] for prediction in engine.predict(PAIRS)]
    assert together == pytest.approx([engine.predict([pair])[0].scores[0] for pair in PAIRS], abs=1e-5)
    assert len(set(together)) == len(PAIRS)


def test_of_a_long_pair_the_longer_text_is_cut() -> None:
    engine = TorchClassifier(build_classifier("bert", num_labels=1), pair_tokenizer(), EngineSpec(max_model_len=24))
    assert engine.count_tokens(("the cat", "the dog and the cat " * 50)) == 24
    scores = [engine.predict([("the cat", "the dog and the cat " * times)])[0].scores[0] for times in (40, 50)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
