from __future__ import annotations

import copy
from typing import Any

import pytest

from fastserve_ray.errors import UsageError
from fastserve_ray.plan.digest import canonical_json, stage_digest
from fastserve_ray.plan.settings import resume_settings
from fastserve_ray.plan.stages import Plan, plan_run
from fastserve_ray.spec.load import spec_from_dict, with_overrides
from tests.spec.files import full


def plan_of(data: dict[str, Any], **fingerprints: Any) -> Plan:
    return plan_run(spec_from_dict(data), fingerprint=lambda _: fingerprints)


def without(*sections: str, **changes: Any) -> dict[str, Any]:
    data = full()
    for section in sections:
        del data[section]
    return {**data, **changes}


BASE = {"base": "some/model"}


@pytest.mark.parametrize(
    ("data", "graph"),
    [
        (
            full(),
            {
                "data": (),
                "tune": ("data",),
                "train": ("data", "tune"),
                "compress": ("train", "data"),
                "verify": ("compress", "train", "data"),
                "serve": ("compress", "verify"),
            },
        ),
        (
            without("tune", "compress", "serve"),
            {"data": (), "train": ("data",), "verify": ("train", "data")},
        ),
        (
            without("data", "train", "tune", "compress", "verify", model=BASE),
            {"import": (), "serve": ("import",)},
        ),
        (
            without("train", "tune", model=BASE),
            {
                "data": (),
                "import": (),
                "compress": ("import", "data"),
                "verify": ("compress", "import", "data"),
                "serve": ("compress", "verify"),
            },
        ),
    ],
)
def test_stages_and_what_they_read(data: dict[str, Any], graph: dict[str, tuple[str, ...]]) -> None:
    plan = plan_of(data)
    assert {stage.name: stage.inputs for stage in plan.stages} == graph
    assert plan.names == tuple(graph)


def test_ids_come_from_digests() -> None:
    stage = plan_of(full()).stage("train")
    assert stage.artifact_id == f"train-{stage.digest[:16]}"
    assert len(stage.digest) == 64
    assert "train.learning_rate" in stage.spec_keys


def test_an_unknown_stage_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="data, tune, train"):
        plan_of(full()).stage("trayn")


def test_the_same_spec_has_the_same_digests_however_it_is_written() -> None:
    reordered = dict(reversed(list(full().items())))
    spelled_out = copy.deepcopy(full())
    spelled_out["train"]["num_epochs"] = 1
    spelled_out["verify"]["golden_inputs"] = 16
    assert plan_of(full()).stages == plan_of(reordered).stages == plan_of(spelled_out).stages


def changed_stages(key: str, value: object) -> set[str]:
    spec = spec_from_dict(full())
    before, after = (plan_run(item, fingerprint=lambda _: {}) for item in (spec, with_overrides(spec, {key: value})))
    return {old.name for old, new in zip(before.stages, after.stages, strict=True) if old.digest != new.digest}


ALL = {"data", "tune", "train", "compress", "verify", "serve"}
AFTER_DATA = ALL - {"data"}


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("name", "other", set()),
        ("storage", "s3://bucket/x", set()),
        ("cluster.num_cpus", 64, set()),
        ("train.logging_steps", 3, set()),
        ("train.checkpoint.every_steps", 3, set()),
        ("train.max_failures", 9, set()),
        ("train.resources_per_worker.CPU", 2, set()),
        ("train.eval_every_steps", 5, set()),
        ("tune.max_concurrent_trials", 2, set()),
        ("serve.port", 9000, {"serve"}),
        ("serve.autoscaling_config.max_replicas", 9, {"serve"}),
        ("serve.engine.max_num_seqs", 3, {"serve"}),
        ("serve.engine.dtype", "bfloat16", {"verify", "serve"}),
        ("serve.shards.tensor", 2, {"verify", "serve"}),
        ("verify.max_drop", {"eval_loss": 0.2}, {"verify", "serve"}),
        ("compress.0.sparsity", 0.4, {"compress", "verify", "serve"}),
        ("tune.num_samples", 3, AFTER_DATA),
        ("train.learning_rate", 1e-3, AFTER_DATA),
        ("train.parallel.workers", 4, AFTER_DATA - {"tune"}),
        ("train.parallel.zero", 2, AFTER_DATA - {"tune"}),
        ("train.gradient_accumulation_steps", 2, AFTER_DATA - {"tune"}),
        ("model.config.hidden_size", 128, AFTER_DATA),
        ("model.tokenizer.vocab_size", 600, ALL),
        ("data.max_length", 32, ALL),
        ("data.seed", 1, ALL),
    ],
)
def test_a_key_changes_the_digests_that_it_decides_and_no_other(key: str, value: object, stages: set[str]) -> None:
    assert changed_stages(key, value) == stages


@pytest.mark.parametrize(
    ("key", "value", "is_same"),
    [
        ("train.parallel.workers", 4, True),
        ("train.parallel.zero", 2, True),
        ("train.gradient_accumulation_steps", 2, True),
        ("train.gradient_checkpointing", True, True),
        ("train.resources_per_worker.CPU", 2, True),
        ("train.batch_size", 64, False),
        ("train.learning_rate", 1e-3, False),
        ("train.seed", 7, False),
        ("model.config.hidden_size", 128, False),
    ],
)
def test_only_what_is_learned_decides_which_checkpoint_fits(key: str, value: object, is_same: bool) -> None:
    spec = spec_from_dict(full())
    assert (resume_settings(spec) == resume_settings(with_overrides(spec, {key: value}))) is is_same


def test_a_tuned_compression_key_makes_the_search_depend_on_the_compression() -> None:
    data = full()
    space = {"space": "choice", "categories": [0.3, 0.5]}
    data["tune"]["parameters"] = {"compress.0.sparsity": space}
    changed = copy.deepcopy(data)
    changed["compress"][0]["scope"] = "global"
    assert plan_of(data).stage("tune").digest != plan_of(changed).stage("tune").digest


@pytest.mark.parametrize(
    ("key", "stages"),
    [
        ("data.train", ALL),
        ("data.validation", ALL),
        ("model.base", ALL),
        ("model.tokenizer", ALL),
        ("elsewhere", set()),
    ],
)
def test_an_input_that_changes_makes_its_readers_anew(key: str, stages: set[str]) -> None:
    before, after = plan_of(full()), plan_of(full(), **{key: [["x", 1, 2]]})
    changed = {old.name for old, new in zip(before.stages, after.stages, strict=True) if old.digest != new.digest}
    assert changed == stages


def test_a_digest_depends_on_the_stage_and_its_parents() -> None:
    parts: dict[str, Any] = {"settings": {"a": 1}, "parents": {"data": "x"}, "fingerprints": {}}
    digests = {
        stage_digest("train", **parts),
        stage_digest("tune", **parts),
        stage_digest("train", **{**parts, "parents": {"data": "y"}}),
        stage_digest("train", **{**parts, "fingerprints": {"model.base": 1}}),
    }
    assert len(digests) == 4


def test_canonical_json_is_one_text_for_equal_values() -> None:
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"\\u00e9"],"b":1}'
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json({"a": float("nan")})
