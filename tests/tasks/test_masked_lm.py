"""Masked language models: what is chosen, and L = L_masked + L_next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES,
    MODEL_FOR_PRETRAINING_MAPPING_NAMES,
)

from fastserve_ray.models.loading import build_from_config
from fastserve_ray.spec.model import NEXT_SENTENCE_TYPES
from fastserve_ray.tasks.masked_lm import NEXT, MaskedLM
from fastserve_ray.tasks.packed import IGNORED
from tests.training.tiny import make_tokenizer

TASK = MaskedLM()
MASK, VOCABULARY = 63, 64
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **SHAPE, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "roberta": {"model_type": "roberta", **SHAPE, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "distilbert": {
        "model_type": "distilbert",
        "dim": 16,
        "n_layers": 1,
        "n_heads": 2,
        "hidden_dim": 32,
        "dropout": 0.0,
    },
}


def row(length: int, *, seed: int = 0, **more: Any) -> dict[str, Any]:
    ids = np.random.default_rng(seed).integers(3, 60, length).astype(np.int32)
    ids[0] = ids[-1] = 1
    return {"input_ids": ids, "special": [0, length - 1], "mask_token_id": MASK, "vocab_size": VOCABULARY, **more}


def pair(length: int, seed: int, is_random: int) -> dict[str, Any]:
    return row(length, seed=seed, second=length // 2, is_random=is_random)


def test_fifteen_percent_are_chosen_and_most_of_them_masked() -> None:
    rows = [row(202, seed=seed, draw=(0, 0)) for seed in range(100)]
    batch = TASK.collate(rows, 0)
    original = torch.stack([torch.from_numpy(one["input_ids"]).long() for one in rows])
    chosen = batch["labels"] != IGNORED
    assert chosen.sum(1).tolist() == [30] * 100
    assert torch.equal(batch["labels"][chosen], original[chosen])
    assert torch.equal(batch["input_ids"][~chosen], original[~chosen])
    assert not chosen[:, [0, -1]].any()
    found = batch["input_ids"][chosen]
    assert (found == MASK).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (found == original[chosen]).float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_the_draw_hangs_on_row_seed_and_epoch_and_on_nothing_else() -> None:
    first, second = row(40, seed=1, draw=(0, 0)), row(50, seed=2, draw=(0, 0))
    together, alone = TASK.collate([second, first], 0), TASK.collate([first], 0)
    assert torch.equal(together["labels"][1, :40], alone["labels"][0])
    assert torch.equal(together["input_ids"][1, :40], alone["input_ids"][0])
    for draw in [(0, 1), (1, 0), ()]:
        assert not torch.equal(TASK.collate([{**first, "draw": draw}], 0)["labels"], alone["labels"])
    validation = row(40, seed=1)
    assert torch.equal(TASK.collate([validation], 0)["labels"], TASK.collate([validation], 0)["labels"])


def test_segments_have_types_and_padding_has_none() -> None:
    batch = TASK.collate([pair(10, 1, 0), pair(6, 2, 1)], 0)
    assert batch["token_type_ids"].tolist() == [[0] * 5 + [1] * 5, [0] * 3 + [1] * 3 + [0] * 4]
    assert batch[NEXT].tolist() == [0, 1]


@pytest.mark.parametrize("family", CONFIGS)
def test_the_loss_is_that_of_transformers(family: str) -> None:
    model: Any = build_from_config(CONFIGS[family], "masked-lm", make_tokenizer(), seed=0).eval()
    rows = [pair(42, seed, seed % 2) for seed in range(4)] if family == "bert" else [row(42, seed=1), row(30, seed=2)]
    batch = TASK.collate(rows, 0)
    found = TASK.loss(model, batch)
    theirs = model(**batch).loss
    assert int(found.count) == TASK.count(batch) == int((batch["labels"] != IGNORED).sum())
    assert float(found.total.detach()) / int(found.count) == pytest.approx(theirs.item(), rel=1e-5)
    assert TASK.metrics(6.0, 4, 1) == {"eval_loss": 1.5, "eval_accuracy": 0.25}


def test_the_loss_of_rows_of_any_length_adds_up() -> None:
    model: Any = build_from_config(CONFIGS["bert"], "masked-lm", make_tokenizer(), seed=0).eval()
    rows = [pair(length, length, length % 2) for length in (12, 40, 25)]
    whole = TASK.loss(model, TASK.collate(rows, 0))
    parts = [TASK.loss(model, TASK.collate([one], 0)) for one in rows]
    assert float(whole.total.detach()) == pytest.approx(sum(float(part.total.detach()) for part in parts), rel=1e-5)
    assert int(whole.count) == sum(int(part.count) for part in parts)


def test_a_head_for_the_next_sentence_is_trained_where_there_is_one() -> None:
    model: Any = build_from_config(CONFIGS["bert"], "masked-lm", make_tokenizer(), seed=0)
    batch = TASK.collate([pair(20, 1, 0), pair(20, 2, 1)], 0)
    logits = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
    next_loss = functional.cross_entropy(logits.seq_relationship_logits, batch[NEXT])
    without = TASK.loss(model, {name: value for name, value in batch.items() if name != NEXT})
    difference = float((TASK.loss(model, batch).total - without.total).detach()) / TASK.count(batch)
    assert difference == pytest.approx(next_loss.item(), rel=1e-4)


def test_the_types_with_such_a_head_are_those_of_transformers() -> None:
    known = set(MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES) & set(MODEL_FOR_PRETRAINING_MAPPING_NAMES)
    assert known >= NEXT_SENTENCE_TYPES
    for name in NEXT_SENTENCE_TYPES:
        assert AutoConfig.for_model(name).model_type == name
