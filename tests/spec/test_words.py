from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from fastserve_ray.spec import DataSpec, RunSpec, TrainSpec
from fastserve_ray.spec.metrics import TASK_METRICS
from fastserve_ray.spec.paths import dotted_keys, keys_in, nearest, type_at
from fastserve_ray.spec.words import describe, field_type, listing
from fastserve_ray.tasks.metrics import GOALS


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "an integer"),
        (bool, "true or false"),
        (str | None, "a string"),
        (Literal["a", "b", "c"], "a, b or c"),
        (Annotated[int, Field(ge=1, le=3)], "an integer at least 1 and at most 3"),
        (Annotated[float, Field(gt=0)] | None, "a number greater than 0"),
        (tuple[str, ...], "a list; each entry a string"),
        (dict[str, int], "a mapping"),
        (str | int | float, "a string or an integer or a number"),
        (object, "a YAML value"),
    ],
)
def test_types_in_words(annotation: object, words: str) -> None:
    assert describe(annotation) == words


def test_a_field_keeps_its_bounds() -> None:
    assert describe(field_type(DataSpec.model_fields["max_length"])) == "an integer at least 8 and at most 1000000"
    assert describe(field_type(TrainSpec.model_fields["seed"])) == "an integer at least 0"
    assert "lower-case" in describe(field_type(RunSpec.model_fields["name"]))


def test_listing() -> None:
    assert [listing([]), listing(["a"]), listing("ab"), listing("abc", "and")] == ["", "a", "a or b", "a, b and c"]


def test_nearest_by_likeness_and_by_initials() -> None:
    assert nearest("batchsize", ["batch_size", "base"]) == "batch_size"
    assert nearest("lr", ["adam_beta1", "learning_rate"]) == "learning_rate"
    assert nearest("zzz", ["learning_rate"]) is None


def test_the_schema_as_a_tree() -> None:
    data = {"compress": [{"kind": "prune"}, {"kind": "quantize"}], "data": {"train": {"path": "x"}}}
    assert type_at(("train", "parallel", "zero"), data) is not None
    assert type_at(("compress", 0, "sparsity"), data) is not None
    assert type_at(("compress", 1, "sparsity"), data) is None
    assert type_at(("model", "config", "rope_parameters", "rope_theta"), data) is object
    assert type_at(("data", "train", "format"), data) is not None
    assert type_at(("train", "xyzzy"), data) is None
    assert "compress.1.scheme" in keys_in(data, ("compress",))
    assert "compress.1.sparsity" not in keys_in(data, ("compress",))


def test_dotted_keys_reach_the_leaves() -> None:
    assert {"train.parallel.zero", "serve.engine.scheduler.policy", "data.train.path", "version"} <= set(dotted_keys())


def test_the_metrics_of_the_spec_are_those_of_the_tasks() -> None:
    assert {name: goal for metrics in TASK_METRICS.values() for name, goal in metrics.items()} == GOALS
