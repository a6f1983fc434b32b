from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.errors import PlacementError
from fastserve_ray.plan.resources import Bundles, check_placement, list_gpus, present_resources
from fastserve_ray.plan.stages import Plan, plan_run
from fastserve_ray.spec.load import spec_from_dict, with_overrides
from tests.spec.files import full

if TYPE_CHECKING:
    from pathlib import Path


def plan_with(**overrides: Any) -> Plan:
    spec = with_overrides(spec_from_dict(full()), {key.replace("__", "."): value for key, value in overrides.items()})
    return plan_run(spec, fingerprint=lambda _: {})


def test_each_stage_asks_for_its_own() -> None:
    plan = plan_with(train__resources_per_worker={"CPU": 3, "GPU": 0.5}, serve__resources_per_replica={"CPU": 2})
    assert plan.stage("train").resources == Bundles(2, 3.0, 0.5)
    assert plan.stage("tune").resources == Bundles(1, 3.0, 0.5)
    assert plan.stage("serve").resources == Bundles(1, 2.0)
    assert plan.stage("data").resources == Bundles(1, 1.0)
    sharded = {"shards": {"tensor": 2}, "resources_per_replica": {"CPU": 2}}
    sharded["autoscaling_config"] = {"min_replicas": 3, "max_replicas": 3}
    assert plan_with(serve=sharded).stage("serve").resources == Bundles(6, 2.0)
    spread = plan_with(train__parallel={"workers": 2, "tensor": 2}, tune__workers_per_trial=2)
    assert spread.stage("train").resources == spread.stage("tune").resources == Bundles(4, 1.0)


def test_every_served_model_asks_for_its_replicas() -> None:
    further = {"base": "x", "shards": {"tensor": 2}, "autoscaling_config": {"min_replicas": 2, "max_replicas": 2}}
    serve = {"models": {"large": further, "small": {"base": "y", "resources_per_replica": {"CPU": 0.5}}}}
    plan = plan_with(serve=serve)
    asked = plan.stage("serve").resources
    assert asked == Bundles(1, 1.0, others=(Bundles(4, 1.0), Bundles(1, 0.5)))
    assert (asked.total_cpus, str(asked)) == (5.5, "1 x (1 CPU) + 4 x (1 CPU) + 1 x (0.5 CPU)")
    check_placement(plan, 5.5, 0)
    with pytest.raises(PlacementError, match=r"serve asks for 1 x \(1 CPU\) \+ 4 x") as refusal:
        check_placement(plan, 5, 0)
    assert (refusal.value.key or "").startswith("serve.models, ")


def test_models_without_replicas_at_rest_take_turns() -> None:
    at_zero = {"min_replicas": 0, "max_replicas": 1}
    large = {"base": "x", "autoscaling_config": at_zero, "resources_per_replica": {"CPU": 3}}
    small = {"base": "y", "autoscaling_config": at_zero}
    serve = {"models": {"small": small, "large": large}}
    assert plan_with(serve=serve).stage("serve").resources == Bundles(1, 1.0, others=(Bundles(1, 3.0),))
    alone = {**serve, "autoscaling_config": at_zero}
    assert plan_with(serve=alone).stage("serve").resources == Bundles(1, 3.0)


def test_shards_that_do_not_fit_are_named() -> None:
    with pytest.raises(PlacementError, match=r"serve asks for 4 x \(1 CPU\)") as refusal:
        check_placement(plan_with(serve={"shards": {"tensor": 4}}), 2, 0)
    assert (
        refusal.value.key == "serve.shards.tensor, serve.autoscaling_config.min_replicas or serve.resources_per_replica"
    )


def test_a_plan_that_fits_passes() -> None:
    check_placement(plan_with(), 2, 0)
    check_placement(plan_with(), None, None)


def test_a_plan_that_does_not_fit_says_what_is_asked_and_what_is_there() -> None:
    plan = plan_with(train__parallel__workers=8)
    with pytest.raises(PlacementError) as caught:
        check_placement(plan, 4, 0)
    text = str(caught.value)
    assert "train asks for 8 x (1 CPU)" in text
    assert "4 CPU and 0 GPU" in text
    assert "train.parallel.workers" in text
    assert caught.value.exit_code == 2


def test_gpus_count_too() -> None:
    plan = plan_with(serve__resources_per_replica={"GPU": 1})
    with pytest.raises(PlacementError, match=r"serve asks for 1 x \(1 CPU \+ 1 GPU\)"):
        check_placement(plan, 64, 0)
    check_placement(plan, 64, 1)


def test_what_is_present() -> None:
    spec = spec_from_dict(full())
    assert present_resources(spec).cpus == os.cpu_count()
    sized = present_resources(with_overrides(spec, {"cluster.num_cpus": 7, "cluster.num_gpus": 2}))
    assert (sized.cpus, sized.gpus) == (7, 2)
    joined = present_resources(with_overrides(spec, {"cluster.address": "auto"}))
    assert (joined.cpus, joined.gpus) == (None, None)
    types = {"head": {"resources": {"CPU": 4}}, "worker": {"resources": {"CPU": 8, "GPU": 2}, "max_workers": 3}}
    described = {"address": "auto", "head_node_type": "head", "available_node_types": types}
    grown = present_resources(with_overrides(spec, {"cluster": described}))
    assert (grown.cpus, grown.gpus) == (24, 6)


@pytest.mark.parametrize(
    ("script", "count"),
    [
        ("echo 'GPU 0: NVIDIA X (UUID: GPU-1)'; echo 'GPU 1: NVIDIA X (UUID: GPU-2)'", 2),
        ("echo 'No devices were found'", 0),
        ("echo broken >&2; exit 9", 0),
    ],
)
def test_gpus_are_what_nvidia_smi_lists(
    script: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert len(list_gpus()) == count
