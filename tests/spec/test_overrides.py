from __future__ import annotations

import pytest

from fastserve_ray.errors import SpecError
from fastserve_ray.spec.load import parse_spec
from fastserve_ray.spec.overrides import put
from fastserve_ray.spec.paths import split_path
from tests.spec.files import problems_in

TEXT = """\
name: a
model: {base: gpt2}
data: {train: {path: x.txt}}
train: {batch_size: 8}
tune: {parameters: {train.seed: {space: randint, lower: 0, upper: 9}}}
compress: [{kind: prune, sparsity: 0.5}]
serve:
"""


def test_values_are_read_as_yaml() -> None:
    sets = [
        "train.learning_rate=1e-4",
        "train.gradient_checkpointing=true",
        "serve={port: 0}",
        "name='7'",
        "storage=a=b",
    ]
    spec = parse_spec(TEXT, sets=sets)
    assert spec.train is not None
    assert spec.serve is not None
    assert (spec.train.learning_rate, spec.train.gradient_checkpointing) == (1e-4, True)
    assert (spec.serve.port, spec.name, spec.storage) == (0, "7", "a=b")


def test_sections_that_are_absent_or_empty_are_made() -> None:
    spec = parse_spec(TEXT, sets=["serve.engine.max_num_seqs=3", "cluster.num_cpus=4"])
    assert spec.serve is not None
    assert (spec.serve.engine.max_num_seqs, spec.cluster.num_cpus) == (3, 4)


def test_list_entries_go_by_number_and_one_past_the_end_appends() -> None:
    spec = parse_spec(TEXT, sets=["compress.0.sparsity=0.25", "compress.1.kind=quantize"])
    assert [step.kind for step in spec.compress] == ["prune", "quantize"]


def test_keys_with_dots_are_found() -> None:
    sets = [
        "tune.parameters.train.seed.upper=3",
        "tune.parameters.train.weight_decay={space: choice, categories: [0, 0.1]}",
    ]
    spec = parse_spec(TEXT, sets=sets)
    assert spec.tune is not None
    assert set(spec.tune.parameters) == {"train.seed", "train.weight_decay"}
    assert spec.tune.parameters["train.seed"].model_dump()["upper"] == 3


def test_the_last_override_of_a_key_counts() -> None:
    assert parse_spec(TEXT, sets=["name=b", "name=c"]).name == "c"


def test_null_takes_a_section_away() -> None:
    assert parse_spec(TEXT, sets=["serve=null", "tune=null"]).tune is None


def test_a_wrong_override_names_the_flag_and_the_nearest_key() -> None:
    (problem,) = problems_in(TEXT, "train.learning_rat=1")
    assert problem.file == "--set train.learning_rat=1"
    assert (problem.line, problem.nearest) == (None, "learning_rate")
    assert str(problem).startswith("--set train.learning_rat=1: train.learning_rat: unknown key")


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        ("train", "key=value"),
        ("=3", "key=value"),
        ("name.first=x", "has no keys"),
        ("compress.5.sparsity=0.1", "list with 1 entries"),
        ("compress.x=1", "list with 1 entries"),
        ("train=[1", "YAML"),
        ("name=${env:NOPE}", "NOPE"),
    ],
)
def test_an_override_that_cannot_be_applied(flag: str, word: str) -> None:
    problems = problems_in(TEXT, flag)
    assert any(word in problem.message and problem.file == f"--set {flag}" for problem in problems)


def test_an_override_mends_what_the_file_has_wrong() -> None:
    text = TEXT.replace("batch_size: 8", "batch_size: ${env:NOPE}")
    assert problems_in(text)
    assert not problems_in(text, "train.batch_size=4")


def test_put_says_why_it_cannot() -> None:
    data = {"a": {"b": 1}}
    assert put(data, ("a", "c", "d"), 2) is None  # type: ignore[arg-type]
    assert data == {"a": {"b": 1, "c": {"d": 2}}}
    assert "has no keys" in (put(data, ("a", "b", "x"), 2) or "")  # type: ignore[arg-type]


def test_split_path_prefers_keys_that_are_there() -> None:
    data = {"a": {"b.c": {"d": [1]}, "b": 2}}
    assert split_path("a.b.c.d.0", data) == ("a", "b.c", "d", 0)
    assert split_path("a.b", data) == ("a", "b")
    assert split_path("x.0", data) == ("x", "0")


def test_override_of_a_legal_file_is_still_checked_as_a_whole() -> None:
    with pytest.raises(SpecError, match="not divisible"):
        parse_spec(TEXT, sets=["train.parallel.workers=3"])
