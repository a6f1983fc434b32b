from __future__ import annotations

import math

import pytest

from fastserve_ray.spec.yaml_reader import Document, Mark, Plain, read_yaml, typed


def read(text: str, **env: str) -> Document:
    return read_yaml(text, file="f.yaml", env=env)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("on", "on"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2026-11-21", "2026-11-21"),
        ("-.inf", -math.inf),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: Plain) -> None:
    result = typed(text)
    assert result == value
    assert type(result) is type(value)


def test_nan_is_a_number() -> None:
    value = typed(".nan")
    assert isinstance(value, float)
    assert math.isnan(value)


def test_quoted_scalars_stay_strings() -> None:
    assert read("a: '5'\nb: \"true\"\nc: !!str 5\nd: |\n  7\n").data == {"a": "5", "b": "true", "c": "5", "d": "7\n"}


def test_every_key_and_entry_has_its_place() -> None:
    document = read("a:\n  b: 1\n  c:\n  - x\n  - {d: 2}\n")
    assert document.marks[("a", "b")] == Mark("f.yaml", 2, 3)
    assert document.marks[("a", "c", 1)] == Mark("f.yaml", 5, 5)
    assert document.marks[("a", "c", 1, "d")] == Mark("f.yaml", 5, 6)
    assert document.mark_of(("a", "c", 1, "absent", "deeper")) == Mark("f.yaml", 5, 5)


def test_a_key_that_stands_twice_is_an_error_and_the_first_one_counts() -> None:
    document = read("a: 1\nb: 2\na: 3\n")
    assert document.data == {"a": 1, "b": 2}
    (problem,) = document.problems
    assert (problem.key, problem.line, problem.column) == ("a", 3, 1)
    assert "line 1" in problem.message


def test_variables_expand_before_a_plain_scalar_is_typed() -> None:
    text = "a: ${env:PORT}\nb: '${env:PORT}'\nc: x-${env:PORT}-y\nd: ${env:ABSENT:-8000}\ne: ${env:ABSENT:-}\n"
    document = read(text, PORT="80")
    assert document.data == {"a": 80, "b": "80", "c": "x-80-y", "d": 8000, "e": None}
    assert not document.problems


def test_variables_may_stand_inside_braces_and_keep_columns() -> None:
    document = read("a: {path: ${env:HOME:-s3://b/{x}, z: 1}\n")
    assert document.data == {"a": {"path": "s3://b/{x", "z": 1}}
    assert document.marks[("a", "z")].column == 35


def test_an_empty_variable_takes_the_default_and_is_legal_without_one() -> None:
    document = read("a: ${env:X:-d}\nb: ${env:X}\n", X="")
    assert document.data == {"a": "d", "b": None}
    assert not document.problems


def test_a_missing_variable_is_a_problem_at_its_place() -> None:
    (problem,) = read("a: 1\nb: ${env:NOPE}\n").problems
    assert (problem.key, problem.line) == ("b", 2)
    assert "NOPE" in problem.message


def test_aliases_are_followed() -> None:
    assert read("a: &x {k: 1}\nb: *x\n").data == {"a": {"k": 1}, "b": {"k": 1}}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: [1, 2", "expected"),
        ("a: b: c", "not allowed"),
        ("a:\n\t- 1", "tab"),
        ("a: 1\n---\nb: 2\n", "document"),
        ("a: &x [*x]", "itself"),
        ("a: " + "[" * 3000 + "]" * 3000, "deep"),
        ("a: \x01", "special characters"),
        ("a: *nowhere", "nowhere"),
    ],
)
def test_what_is_no_yaml_is_one_problem(text: str, word: str) -> None:
    document = read(text)
    assert document.data is None
    (problem,) = document.problems
    assert word in problem.message
    assert problem.file == "f.yaml"


def test_aliases_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (problem,) = read("\n".join(lines)).problems
    assert "expand to over" in problem.message


def test_tags_are_refused_with_their_place() -> None:
    (problem,) = read("a: 1\nb: !!python/object:os.system x\n").problems
    assert (problem.key, problem.line) == ("b", 2)
    assert "not supported" in problem.message


def test_a_key_that_is_no_word_is_refused() -> None:
    (problem,) = read("? [1, 2]\n: x\n").problems
    assert "plain word" in problem.message


def test_numbers_as_keys_are_words() -> None:
    assert read("{0: neg, 1: pos}").data == {"0": "neg", "1": "pos"}
