"""Every error crosses a process boundary whole, and says what to change."""

from __future__ import annotations

import pickle

import pytest

from fastserve_ray import errors
from fastserve_ray.errors import FastServeError, Problem, SpecError


def all_errors(cls: type[FastServeError]) -> list[type[FastServeError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in all_errors(child))]


@pytest.mark.parametrize(
    "cls", [cls for cls in all_errors(FastServeError) if cls.__module__ == errors.__name__ and cls is not SpecError]
)
def test_an_error_survives_pickling(cls: type[FastServeError]) -> None:
    error = cls("cannot read", value=["a"], allowed="a file", key="data.train.path", hint="check the path")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert (copy.key, copy.value, copy.allowed, copy.hint) == ("data.train.path", "['a']", "a file", "check the path")


def test_a_spec_error_keeps_its_problems() -> None:
    problem = Problem("train.zero", "unknown key", nearest="train.parallel.zero", file="app.yaml", line=3, column=5)
    copy = pickle.loads(pickle.dumps(SpecError([problem])))
    assert copy.problems == (problem,)
    assert "app.yaml:3:5: train.zero: unknown key; did you mean 'train.parallel.zero'?" in str(copy)


def test_the_message_names_value_allowed_and_key() -> None:
    text = str(errors.DataError("no such column", value="sentense", allowed="sentence, label", key="data.columns.text"))
    assert text.splitlines() == [
        "no such column",
        "  got: sentense",
        "  allowed: sentence, label",
        "  change: data.columns.text",
    ]


def test_user_errors_end_with_code_two_and_failures_with_one() -> None:
    assert {cls.exit_code for cls in (errors.SpecError, errors.UsageError, errors.PlacementError)} == {2}
    assert {cls.exit_code for cls in (errors.TrainingError, errors.StorageError, errors.VerificationError)} == {1}
