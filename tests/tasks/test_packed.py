"""A packed row trains as its documents would alone."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fastserve_ray.tasks.evaluate import evaluate
from fastserve_ray.tasks.packed import keeps_documents_apart
from fastserve_ray.tasks.table import load_task

SHAPE = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
LLAMA = {**SHAPE, "intermediate_size": 32, "num_key_value_heads": 1}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "llama": LLAMA,
    "qwen2": LLAMA,
    "mistral": {**LLAMA, "sliding_window": 3},
    "gemma3_text": {**LLAMA, "sliding_window": 3, "head_dim": 8},
    "bloom": {"vocab_size": 40, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    "opt": {**SHAPE, "ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 32},
    "mamba": {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}
APART = {"gpt2", "llama", "qwen2", "mistral", "gemma3_text"}
"""The others count positions from the mask, or know none."""
DOCUMENTS = [[5, 6, 7, 8, 9, 10, 11], [3, 4], [9, 8, 7, 30], [12], [21, 22, 23, 24, 25]]
ROWS: list[dict[str, Any]] = [
    {"input_ids": list(chain(*DOCUMENTS[:3])), "lengths": [7, 2, 4]},
    {"input_ids": list(chain(*DOCUMENTS[3:])), "lengths": [1, 5]},
]
NUM_LABELS = 6 + 1 + 3 + 0 + 4


def make_model(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **MODELS[family])).eval()
    for weight in model.parameters():  # weights large enough for attention to matter
        torch.nn.init.normal_(weight, std=0.4) if weight.ndim > 1 else None
    return model


@pytest.mark.parametrize("family", MODELS)
def test_the_loss_of_packed_rows_is_that_of_their_documents_alone(family: str) -> None:
    task, model = load_task("text-generation"), make_model(family)
    batch = task.collate(ROWS, 0)
    packed = task.loss(model, batch)
    alone = [task.loss(model, task.collate([{"input_ids": ids}], 0)) for ids in DOCUMENTS]
    assert int(packed.count) == task.count(batch) == NUM_LABELS
    mean = sum(float(one.total.detach()) for one in alone) / NUM_LABELS
    assert float(packed.total.detach()) / NUM_LABELS == pytest.approx(mean, abs=1e-5)
    assert int(packed.correct) == sum(int(one.correct) for one in alone)


@pytest.mark.parametrize("family", MODELS)
def test_only_a_model_that_mixes_documents_gets_them_one_a_row(family: str) -> None:
    model = make_model(family)
    shapes = []
    model.register_forward_pre_hook(
        lambda module, args, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    assert keeps_documents_apart(model) == (family in APART)
    shapes.clear()
    task = load_task("text-generation")
    task.loss(model, task.collate(ROWS, 0))
    assert shapes == [(2, 13) if family in APART else (5, 7)]


def test_gradients_are_those_of_the_documents_alone() -> None:
    task, model = load_task("text-generation"), make_model("llama")
    task.loss(model, task.collate(ROWS, 0)).total.backward()
    packed = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    sum(task.loss(model, task.collate([{"input_ids": ids}], 0)).total for ids in DOCUMENTS).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        assert torch.allclose(packed[name], weight.grad, atol=1e-4)


def test_rows_of_one_document_keep_their_mask() -> None:
    batch = load_task("text-generation").collate([{"input_ids": [5, 6, 7], "lengths": [3]}, {"input_ids": [4, 3]}], 0)
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}


def test_evaluation_does_not_mix_documents_either() -> None:
    model, task = make_model("gpt2"), load_task("text-generation")
    packed = evaluate(model, task, ROWS, batch_size=2, pad_token_id=0)
    alone = evaluate(
        model, task, [{"input_ids": ids} for ids in DOCUMENTS if len(ids) > 1], batch_size=1, pad_token_id=0
    )
    assert packed == pytest.approx(alone, rel=1e-5)
