from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.errors import SpecError
from fastserve_ray.spec import CompressStep, FilesSource, HeldOut, PythonDocsSource, RunSpec
from fastserve_ray.spec.load import dump_spec, load_spec, parse_spec, spec_from_dict, with_overrides
from tests.spec.files import classifier, full, problems_in, problems_of

if TYPE_CHECKING:
    from pathlib import Path

SERVE_ONLY = "name: s\nmodel: {base: ./model}\nserve: {}\n"


def test_a_legal_file_loads_with_types(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("name: a\nmodel: {base: gpt2}\ndata: {train: {path: x.csv}}\ntrain: {learning_rate: 5e-5}\n")
    spec = load_spec(path)
    assert spec.train is not None
    assert spec.train.learning_rate == 5e-5
    assert spec.data is not None
    assert spec.data.train == FilesSource(path="x.csv")
    assert spec.data.validation == HeldOut(fraction=0.1)


def test_a_file_that_only_serves_is_legal() -> None:
    assert parse_spec(SERVE_ONLY).data is None


def test_all_sections_together_are_legal() -> None:
    spec = spec_from_dict(full())
    assert isinstance(spec.data and spec.data.train, PythonDocsSource)
    assert [step.kind for step in spec.compress] == ["prune", "quantize"]
    assert problems_of(classifier()) == {}


def test_what_is_dumped_loads_to_an_equal_spec() -> None:
    spec = spec_from_dict(full())
    assert spec_from_dict(dump_spec(spec)) == spec


def test_a_spec_is_frozen() -> None:
    spec = parse_spec(SERVE_ONLY)
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "b"  # type: ignore[misc]


def test_all_errors_come_at_once_in_the_order_of_the_file() -> None:
    text = """\
name: a
model:
  base: gpt2
  tsk: text-generation
data: {train: {path: x.txt}}
train:
  batch_size: 33
  learning_rate: -1
  parallel: {workers: 2, zero: 5}
  precisoon: bf16
serve: {port: 70000}
"""
    problems = problems_in(text)
    assert [(problem.key, problem.line) for problem in problems] == [
        ("model.tsk", 4),
        ("train.batch_size", 7),
        ("train.learning_rate", 8),
        ("train.parallel.zero", 9),
        ("train.precisoon", 10),
        ("serve.port", 11),
    ]
    assert {problem.file for problem in problems} == {"app.yaml"}
    assert problems[3].column == 26


def test_an_unknown_key_names_the_nearest_and_the_known_ones() -> None:
    (problem,) = problems_in(SERVE_ONLY + "servv: 1\n")
    assert (problem.message, problem.nearest) == ("unknown key", "serve")
    assert problem.allowed is not None
    assert "storage" in problem.allowed


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        ("train", "lr", "learning_rate"),
        ("train", "epochs", "num_epochs"),
        ("train", "BATCH_SIZE", "batch_size"),
        ("data", "learning_rate", "train.learning_rate"),
        ("serve", "min_replicas", "serve.autoscaling_config.min_replicas"),
        ("serve", "xyzzy", None),
    ],
)
def test_the_nearest_key(section: str, key: str, nearest: str | None) -> None:
    data = full()
    data[section][key] = 1
    assert problems_of(data)[f"{section}.{key}"].nearest == nearest


@pytest.mark.parametrize(
    ("path", "value", "key", "message", "allowed"),
    [
        ("train.batch_size", "8", "train.batch_size", "wrong type", "an integer greater than 0"),
        ("train.batch_size", True, "train.batch_size", "wrong type", "an integer greater than 0"),
        ("train.batch_size", 8.0, "train.batch_size", "wrong type", "an integer greater than 0"),
        ("train.learning_rate", float("inf"), "train.learning_rate", "must be finite", "a number greater than 0"),
        ("train.warmup_ratio", 1, "train.warmup_ratio", "out of range", "a number at least 0 and less than 1"),
        ("train.precision", "fp8", "train.precision", "not an allowed value", "fp32, bf16 or fp16"),
        ("train", 3, "train", "wrong type", "a mapping with the keys"),
        ("data.train", "x.csv", "data.train", "wrong type", "a mapping with the keys kind, path"),
        ("data.train", {}, "data.train.path", "required key is missing", "a string"),
        ("data.train", {"kind": "hub"}, "data.train.kind", "unknown kind", "files or python-docs"),
        ("data.train", {"path": 3}, "data.train.path", "wrong type", "a string"),
        ("data.validation", {"fraction": 2}, "data.validation.fraction", "out of range", "greater than 0 and less"),
        ("data.validation", {"fractoin": 0.1}, "data.validation.fractoin", "unknown key", "fraction"),
        (
            "model.tokenizer",
            3,
            "model.tokenizer",
            "wrong type",
            "a mapping with the keys kind and vocab_size or a string",
        ),
        ("model.tokenizer", {"vocab_size": 3}, "model.tokenizer.vocab_size", "out of range", "at least 300"),
        ("model.tokenizer", {"vocab": 400}, "model.tokenizer.vocab", "unknown key", "kind and vocab_size"),
        ("name", "Big Name", "name", "does not have the right form", "lower-case letters"),
        ("compress", [{"kind": "prune", "sparsity": 2}], "compress.0.sparsity", "out of range", "less than 1"),
        ("compress", [{"kind": "prunes"}], "compress.0.kind", "unknown kind", "prune or quantize"),
        ("compress", [{"sparsity": 0.5}], "compress.0.kind", "required key is missing", "prune or quantize"),
        ("compress", {"kind": "quantize"}, "compress", "wrong type", "a list"),
        ("compress", [3], "compress.0", "wrong type", "a mapping"),
        ("compress", [{"kind": "quantize", "exclude": "x"}], "compress.0.exclude", "wrong type", "a list"),
        ("tune.parameters", {}, "tune.parameters", "too few entries", "at least 1"),
        ("tune.parameters", {"train.seed": 3}, "tune.parameters.train.seed", "wrong type", "a mapping"),
        (
            "tune.parameters",
            {"train.seed": {"space": "x"}},
            "tune.parameters.train.seed.space",
            "unknown space",
            "choice",
        ),
        ("verify.max_drop", {"eval_loss": -1}, "verify.max_drop.eval_loss", "out of range", "at least 0"),
        ("version", 2, "version", "not an allowed value", "1"),
    ],
)
def test_a_wrong_field_is_reported_once_and_in_plain_words(
    path: str, value: object, key: str, message: str, allowed: str
) -> None:
    data: Any = full()
    holder = data
    *parents, last = path.split(".")
    for part in parents:
        holder = holder[part]
    holder[last] = value
    problems = problems_of(data)
    assert list(problems) == [key]
    assert problems[key].message == message
    assert allowed in (problems[key].allowed or "")


def test_a_tuned_value_of_a_strange_type_is_one_problem() -> None:
    data = full()
    data["tune"]["parameters"] = {"train.seed": {"space": "choice", "categories": [1, {"a": 2}]}}
    problems = problems_of(data)
    assert list(problems) == ["tune.parameters.train.seed.categories.1"]


def test_a_missing_section_is_reported_beside_the_others() -> None:
    assert set(problems_of({"nme": "x"})) >= {"name", "model", "nme"}


def test_what_follows_from_a_broken_key_is_not_reported() -> None:
    data = full()
    data["train"]["batch_size"] = "many"
    data["data"]["train"] = {}
    assert set(problems_of(data)) == {"train.batch_size", "data.train.path"}


@pytest.mark.parametrize(("text", "word"), [("", "empty"), ("- a\n", "not a mapping"), ("# only words\n", "empty")])
def test_a_file_without_keys(text: str, word: str) -> None:
    (problem,) = problems_in(text)
    assert word in problem.message


def test_a_missing_variable_does_not_bring_further_problems() -> None:
    (problem,) = problems_in("name: a\nmodel: {base: ${env:NOPE}}\nserve: {}\n")
    assert problem.key == "model.base"
    assert "NOPE" in problem.message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        load_spec(tmp_path / "absent.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="UTF-8"):
        load_spec(binary)
    with pytest.raises(SpecError, match="directory"):
        load_spec(tmp_path)


def test_overrides_make_a_new_valid_spec() -> None:
    spec = spec_from_dict(full())
    changed = with_overrides(
        spec, {"train.learning_rate": 1e-4, "compress.0.sparsity": 0.25, "model.config.hidden_size": 128}
    )
    assert changed.train is not None
    assert changed.train.learning_rate == 1e-4
    first: CompressStep = changed.compress[0]
    assert first.model_dump()["sparsity"] == 0.25
    assert (changed.model.config or {})["hidden_size"] == 128
    assert spec == spec_from_dict(full())
    assert isinstance(changed, RunSpec)


def test_overrides_are_validated() -> None:
    spec = spec_from_dict(full())
    with pytest.raises(SpecError) as caught:
        with_overrides(spec, {"train.learning_rat": 1e-4, "train.batch_size": 7, "name.x": 1, "compress.7.sparsity": 1})
    assert {problem.key for problem in caught.value.problems} == {
        "train.learning_rat",
        "train.batch_size",
        "name.x",
        "compress.7.sparsity",
    }
