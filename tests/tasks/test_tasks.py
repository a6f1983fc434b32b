"""Losses and metrics of the tasks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from fastserve_ray.errors import DataError, UnknownNameError
from fastserve_ray.tasks.evaluate import evaluate
from fastserve_ray.tasks.metrics import goal_of
from fastserve_ray.tasks.table import TASKS, load_task

SHAPE = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}
LLAMA = {**SHAPE, "intermediate_size": 32, "num_key_value_heads": 2}
TOKENS = [{"input_ids": [5, 6, 7, 8, 9]}, {"input_ids": [3, 4]}, {"input_ids": [9, 8, 7]}]
TEXTS: list[dict[str, Any]] = [{**row, "label": index % 2} for index, row in enumerate(TOKENS)]


@pytest.fixture(scope="module")
def generator() -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LLAMA)).eval()
    return model


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", **SHAPE, intermediate_size=32, num_labels=2)
    model: torch.nn.Module = AutoModelForSequenceClassification.from_config(config).eval()
    return model


def test_generation_loss_is_that_of_transformers_times_the_count(generator: torch.nn.Module) -> None:
    task = load_task("text-generation")
    batch = task.collate(TOKENS, 0)
    found = task.loss(generator, batch)
    theirs = generator(**batch).loss
    assert int(found.count) == task.count(batch) == 4 + 1 + 2
    assert float(found.total.detach()) == pytest.approx(7 * theirs.item(), rel=1e-6)
    assert found.total.requires_grad


def test_classification_loss_is_that_of_transformers_times_the_count(classifier: torch.nn.Module) -> None:
    task = load_task("text-classification")
    batch = task.collate(TEXTS, 0)
    found = task.loss(classifier, batch)
    assert int(found.count) == task.count(batch) == 3
    assert float(found.total.detach()) == pytest.approx(3 * classifier(**batch).loss.item(), rel=1e-6)


def test_padding_changes_nothing(generator: torch.nn.Module) -> None:
    task = load_task("text-generation")
    together = float(task.loss(generator, task.collate(TOKENS, 0)).total.detach())
    apart = sum(float(task.loss(generator, task.collate([row], 0)).total.detach()) for row in TOKENS)
    assert together == pytest.approx(apart, rel=1e-6)


def test_a_padding_token_inside_a_text_is_a_token() -> None:
    """Packed documents may be separated by the very token that pads."""
    task = load_task("text-generation")
    assert task.count(task.collate([{"input_ids": [5, 0, 6]}], 0)) == 2


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_metrics_do_not_depend_on_the_batch_size(generator: torch.nn.Module, batch_size: int) -> None:
    task = load_task("text-generation")
    found = evaluate(generator, task, TOKENS, batch_size=batch_size, pad_token_id=0)
    whole = evaluate(generator, task, TOKENS, batch_size=3, pad_token_id=0)
    assert found == pytest.approx(whole, rel=1e-5)
    assert found["eval_perplexity"] == pytest.approx(math.exp(found["eval_loss"]))


def test_accuracy_counts_right_answers(classifier: torch.nn.Module) -> None:
    task = load_task("text-classification")
    with torch.no_grad():
        answers = [int(classifier(**task.collate([row], 0)).logits.argmax()) for row in TEXTS]
    right = [{**row, "label": answer} for row, answer in zip(TEXTS, answers, strict=True)]
    wrong = [{**row, "label": 1 - row["label"]} for row in right]
    assert evaluate(classifier, task, right, batch_size=2, pad_token_id=0)["eval_accuracy"] == 1.0
    assert evaluate(classifier, task, [*right, *wrong], batch_size=2, pad_token_id=0)["eval_accuracy"] == 0.5


def test_next_token_accuracy_of_a_model_that_knows_the_answer() -> None:
    class Counter(torch.nn.Module):
        """Always expects the token after the last one."""

        def forward(self, input_ids: torch.Tensor, **_: object) -> object:
            logits = torch.nn.functional.one_hot(input_ids + 1, 40).float()
            return type("Output", (), {"logits": logits})()

    rows = [{"input_ids": [1, 2, 3, 9]}]
    found = evaluate(Counter(), load_task("text-generation"), rows, batch_size=1, pad_token_id=0)
    assert found["eval_accuracy"] == pytest.approx(2 / 3)


def test_evaluation_leaves_the_mode_as_it_was(generator: torch.nn.Module) -> None:
    generator.train()
    try:
        evaluate(generator, load_task("text-generation"), TOKENS, batch_size=2, pad_token_id=0)
        assert generator.training
    finally:
        generator.eval()


def test_nothing_to_evaluate_on_is_an_error(generator: torch.nn.Module) -> None:
    with pytest.raises(DataError, match="no rows"):
        evaluate(generator, load_task("text-generation"), [], batch_size=2, pad_token_id=0)


def test_every_task_has_a_metric_with_a_direction() -> None:
    for name in TASKS:
        task = load_task(name)
        assert task.name == name
        assert goal_of(task.default_metric) is not None
        assert task.metrics(2.0, 4, 1).keys() >= {"eval_loss", "eval_accuracy"}
    assert goal_of("eval_accuracy") == "maximize"
    assert goal_of("eval_perplexity") == "minimize"
    assert goal_of("latency") is None


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="text-classification, text-generation"):
        load_task("text-clasification")
