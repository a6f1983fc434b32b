"""Models that are there already, and whether they can be served over shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastserve_ray.errors import SpecError
from fastserve_ray.models.cuts import PLANS
from fastserve_ray.plan.shards import check_deployment
from fastserve_ray.plan.stages import plan_run
from fastserve_ray.spec.checks.shards import SERVED_FAMILIES
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.spec.serve import ServeSpec, ShardsSpec


def folder_of(path: Path, **config: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


def over(tensor: int) -> ServeSpec:
    return ServeSpec(shards=ShardsSpec(tensor=tensor))


def test_the_families_are_the_engines() -> None:
    assert set(SERVED_FAMILIES) == set(PLANS)


def test_a_base_whose_heads_do_not_divide_is_refused_by_the_plan(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", model_type="qwen2", num_attention_heads=14, num_key_value_heads=2)
    data = {"version": 1, "name": "m", "model": {"task": "text-generation", "base": str(folder)}}
    plan_run(spec_from_dict({**data, "serve": {"shards": {"tensor": 2}}}))
    with pytest.raises(SpecError, match=r"(?s)serve.shards.tensor: does not divide.*14.*allowed: 1, 2, 14"):
        plan_run(spec_from_dict({**data, "serve": {"shards": {"tensor": 4}}}))


def test_a_folder_of_a_family_without_a_plan_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", model_type="mixtral", num_attention_heads=4)
    check_deployment(folder, "text-generation", over(1))
    with pytest.raises(SpecError, match="models of type mixtral have no plan"):
        check_deployment(folder, "text-generation", over(2))


def test_a_classifier_and_a_pipeline_are_refused_whatever_the_model() -> None:
    for task in ("text-classification", "text-embedding"):
        with pytest.raises(SpecError, match=f"a {task} model is served whole"):
            check_deployment(Path("organisation/hub-id"), task, over(2))
    with pytest.raises(SpecError, match=r"serve\.shards\.pipeline"):
        check_deployment(Path("organisation/hub-id"), "text-generation", ServeSpec(shards=ShardsSpec(pipeline=2)))
