"""Each file in cluster/ is planned, and rendered to every target that it has something for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from fastserve_ray.cluster.table import RENDERERS, render
from fastserve_ray.errors import SpecError
from fastserve_ray.plan.fit import misfits
from fastserve_ray.plan.memory import estimate_memory
from fastserve_ray.plan.resources import present_resources, short_stages
from fastserve_ray.plan.stages import plan_run
from fastserve_ray.spec.load import load_spec
from tests.cli.commands import fastserve
from tests.helm.engine import CHART
from tests.helm.schemas import crd_folder, ray_problems

FOLDER = Path(__file__).parents[2] / "cluster"
FILES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
LAPTOP = ("quickstart", "sentiment", "chat-lora")
"""Their storage is a folder of this machine, and they describe no cluster."""
SETS = (
    "storage=s3://bucket/runs",
    "cluster.image=registry.example.org/fastserve-ray:1",
    "cluster.provider={type: aws}",
)
ENV = {"FASTSERVE_DATA": "s3://bucket/data"}
NOTHING_THERE = {
    ("pretrain-4-nodes", "rayservice"): "the file serves nothing",
    ("pretrain-4-nodes", "serve-config"): "the file serves nothing",
    ("serving-fleet", "rayjob"): "nothing for a job to do",
}
CONFIG_7B = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32768,
    "max_position_embeddings": 32768,
}
"""Of Mistral-7B, whose weights a plan need not see."""


def load(name: str, env: dict[str, str] | None = None) -> Any:
    return load_spec(FOLDER / f"{name}.yaml", SETS if name in LAPTOP else (), env={**ENV, **(env or {})})


def check_ray_up(text: str) -> None:
    validate_config(prepare_config(yaml.safe_load(text)))


def check_serve_config(text: str) -> None:
    ServeDeploySchema.model_validate(yaml.safe_load(text))


def check_helm_values(text: str) -> None:
    jsonschema.validate(yaml.safe_load(text), json.loads((CHART / "values.schema.json").read_text()))


def check_kuberay(text: str) -> None:
    """Asks KubeRay's own schemas where they are; `test_kubernetes.py` says when they are not."""
    config_map, manifest = yaml.safe_load_all(text)
    assert config_map["kind"] == "ConfigMap"
    if crd_folder() is not None:
        assert ray_problems(manifest) == []


CHECKS = {"ray-up": check_ray_up, "serve-config": check_serve_config, "helm-values": check_helm_values}


def test_there_is_a_file_for_each_scale() -> None:
    assert {*LAPTOP, "lora-7b", "pretrain-4-nodes", "serving-fleet", "cpu-fleet"} <= set(FILES)


@pytest.mark.parametrize("target", RENDERERS)
@pytest.mark.parametrize("name", FILES)
def test_it_is_rendered_to_what_the_target_takes(name: str, target: str) -> None:
    if (name, target) in NOTHING_THERE:
        with pytest.raises(SpecError, match=NOTHING_THERE[name, target]):
            render(target, load(name))
        return
    text = render(target, load(name))
    assert "${env" not in text
    CHECKS.get(target, check_kuberay)(text)


@pytest.mark.parametrize("name", FILES)
def test_it_is_valid_where_its_secrets_are_not(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = fastserve(capsys, "validate", str(FOLDER / f"{name}.yaml"))
    assert done.code == 0, done.err


def test_keys_that_are_no_secret_of_the_cluster_must_be_here(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--set", "serve.auth.keys_env=OTHER_KEYS")
    done = fastserve(capsys, "validate", str(FOLDER / "serving-fleet.yaml"), *flags)
    assert done.code == 2
    assert "OTHER_KEYS" in done.err


@pytest.mark.parametrize("name", sorted(set(FILES) - set(LAPTOP)))
def test_its_plan_fits_the_nodes_it_describes(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_7B))
    spec = load(name, {"FASTSERVE_MODEL": str(tmp_path)} if name == "lora-7b" else None)
    plan = plan_run(spec, fingerprint=lambda _: {})
    assert list(short_stages(plan.stages, present_resources(spec))) == []
    assert list(misfits(spec)) == []


def test_memory_of_the_two_large_trainings_is_known(tmp_path: Path) -> None:
    """Billions of parameters over the GPUs: 7.2 in bf16 and a LoRA beside them over 8, 6.7 in bf16 over 16."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_7B))
    lora, *_ = estimate_memory(load("lora-7b", {"FASTSERVE_MODEL": str(tmp_path)}))
    whole, *_ = estimate_memory(load("pretrain-4-nodes"))
    assert lora.peak is not None
    assert whole.peak is not None
    assert lora.peak < 0.9 * 40 * 2**30
    assert whole.peak < 0.9 * 80 * 2**30
    alone, *_ = estimate_memory(load_spec(FOLDER / "pretrain-4-nodes.yaml", ["train.parallel.pipeline=1"], env=ENV))
    assert alone.parameters is not None
    assert whole.parameters is not None
    assert alone.parameters > 3 * whole.parameters
