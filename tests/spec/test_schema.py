from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from fastserve_ray.spec.run import RunSpec
from fastserve_ray.spec.schema import DIALECT, json_schema
from tests.spec.files import classifier, full


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_it_says_which_dialect_it_is() -> None:
    assert json_schema()["$schema"] == DIALECT


@pytest.mark.parametrize("data", [full(), classifier(), {"name": "a", "model": {"base": "b"}, "serve": {}}])
def test_it_accepts_what_the_models_accept(validator: Draft202012Validator, data: dict[str, Any]) -> None:
    assert list(validator.iter_errors(data)) == []
    RunSpec.model_validate(data)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "learning_rat", 1),
        ("train", "batch_size", 0),
        ("train", "batch_size", "8"),
        ("train", "precision", "fp8"),
        ("data", "train", {"path": "x", "pth": "y"}),
        ("data", "train", {"kind": "hub", "path": "x"}),
        ("data", "validation", {"fraction": 1.0}),
        ("serve", "route_prefix", "x"),
        ("model", "tokenizer", {"vocab_size": 3}),
        ("tune", "parameters", {}),
        ("tune", "parameters", {"train.seed": {"space": "gaussian"}}),
        ("tune", "parameters", {"train.seed": {"space": "choice", "categories": []}}),
    ],
)
def test_it_rejects_what_the_models_reject(
    validator: Draft202012Validator, section: str, key: str, value: object
) -> None:
    data = full()
    data[section][key] = value
    assert list(validator.iter_errors(data))
    with pytest.raises(ValueError, match="validation error"):
        RunSpec.model_validate(data)


def test_unknown_keys_are_rejected_in_every_section(validator: Draft202012Validator) -> None:
    data = full()
    for section in ("model", "data", "train", "tune", "verify", "serve"):
        assert list(validator.iter_errors({**data, section: {**data[section], "xyzzy": 1}})), section


def test_every_key_that_has_a_sentence_shows_it() -> None:
    properties: Any = json_schema()["$defs"]
    assert "ZeRO" in properties["ParallelSpec"]["properties"]["zero"]["description"]
    assert "title" not in properties["TrainSpec"]["properties"]["batch_size"]
