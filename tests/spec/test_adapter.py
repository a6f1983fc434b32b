"""``train.adapter``, ``train.freeze`` and ``train.layer_lr_decay`` in a file."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_ray.plan.stages import plan_run
from fastserve_ray.spec.load import spec_from_dict
from tests.spec.files import classifier, full, problems_of

LORA = {"kind": "lora"}
PROMPT = {"kind": "prompt", "num_virtual_tokens": 4}


def with_train(data: dict[str, Any], *without: str, **train: Any) -> dict[str, Any]:
    changed = {**data, "train": {**data["train"], **train}}
    return {key: value for key, value in changed.items() if key not in without}


@pytest.mark.parametrize(
    ("train", "key", "words"),
    [
        ({"adapter": LORA, "freeze": ["*"]}, "train.freeze", "freezes all weights"),
        ({"adapter": {"kind": "adalora"}, "parallel": {"workers": 2, "zero": 2}}, "train.adapter.kind", "ZeRO splits"),
        ({"adapter": {"kind": "adalora", "init_r": 4, "target_r": 4}}, "train.adapter.target_r", "init_r (4)"),
        ({"adapter": {"kind": "adalora", "warmup": 0.5, "final": 0.5}}, "train.adapter.final", "no steps"),
        ({"adapter": LORA, "parallel": {"tensor": 2}}, "train.adapter.kind", "parallel.tensor"),
        ({"layer_lr_decay": 0.9, "parallel": {"pipeline": 2}}, "train.layer_lr_decay", "parallel.pipeline"),
        ({"adapter": {"kind": "prefix"}, "gradient_checkpointing": True}, "train.gradient_checkpointing", "prefix"),
        ({"adapter": {**PROMPT, "num_virtual_tokens": 65}}, "train.adapter.num_virtual_tokens", "(128)"),
        ({"adapter": {"kind": "lorra"}}, "train.adapter.kind", ""),
        ({"adapter": {"kind": "lora", "lora_rank": 8}}, "train.adapter.lora_rank", "unknown"),
        ({"layer_lr_decay": 0.0}, "train.layer_lr_decay", ""),
    ],
)
def test_illegal_adapters(train: dict[str, Any], key: str, words: str) -> None:
    problems = problems_of(with_train(full(), "serve", "compress", "tune", **train))
    assert key in problems, problems
    assert words in problems[key].message
    assert problems[key].allowed


@pytest.mark.parametrize("section", ["serve", "compress"])
def test_what_cannot_be_merged_is_not_served(section: str) -> None:
    others = [name for name in ("serve", "compress") if name != section]
    problem = problems_of(with_train(full(), *others, adapter=PROMPT))["train.adapter.kind"]
    assert f"`{section}` cannot use it" in problem.message
    assert not problems_of(with_train(full(), "serve", "compress", adapter=PROMPT))
    assert not problems_of(with_train(full(), adapter=LORA))


def test_a_classifier_has_no_learned_prompt() -> None:
    assert "train.adapter.kind" in problems_of(with_train(classifier(), adapter=PROMPT))
    assert not problems_of(with_train(classifier(), adapter=LORA))


def test_a_class_of_ones_own_takes_settings() -> None:
    own = {"kind": "mine.adapters:Mine", "settings": {"width": 3}}
    spec = spec_from_dict(with_train(full(), adapter=own))
    assert spec.train is not None
    assert spec.train.adapter is not None
    assert spec.train.adapter.kind == "mine.adapters:Mine"


@pytest.mark.parametrize("train", [{"adapter": LORA}, {"freeze": ["model.embed_tokens.*"]}, {"layer_lr_decay": 0.9}])
def test_what_is_trained_decides_the_model_and_not_the_data(train: dict[str, Any]) -> None:
    plans = [plan_run(spec_from_dict(with_train(full(), **given)), fingerprint=lambda _: {}) for given in ({}, train)]
    assert plans[0].stage("train").digest != plans[1].stage("train").digest
    assert plans[0].stage("data").digest == plans[1].stage("data").digest
