"""Every target: what a file leaves out, and what the command writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from fastserve_ray.cli.render import SERVING, TARGETS
from fastserve_ray.cluster import serve_config
from fastserve_ray.cluster.table import RENDERERS, render
from fastserve_ray.errors import SpecError
from fastserve_ray.serve import builder
from fastserve_ray.spec.load import spec_from_dict
from tests.cli.commands import fastserve
from tests.cluster.apps import CLUSTER, app, document

QUICKSTART = str(Path(__file__).parents[2] / "cluster" / "quickstart.yaml")
REMOTE = ("--set", "storage=s3://bucket/runs")


def test_the_command_knows_every_target() -> None:
    assert tuple(RENDERERS) == TARGETS
    assert set(SERVING) < set(TARGETS)
    assert serve_config.IMPORT_PATH == builder.IMPORT_PATH
    assert getattr(builder, builder.IMPORT_PATH.partition(":")[2]) is builder.build


def test_serve_takes_it() -> None:
    parsed = ServeDeploySchema.model_validate(document("serve-config", model="org/model"))
    (application,) = parsed.applications
    assert application.name == "film.reviews"
    assert application.args["model"] == "org/model"
    assert parsed.http_options.port == 8000


def test_an_address_of_your_own_is_kept() -> None:
    serve = {"host": "10.0.0.7", "port": 9000, "route_prefix": "/films", "model_name": "critic"}
    config = document("serve-config", app(serve=serve))
    assert config["http_options"] == {"host": "10.0.0.7", "port": 9000}
    assert (config["applications"][0]["name"], config["applications"][0]["route_prefix"]) == ("critic", "/films")
    assert document("rayservice", app(serve=serve))["spec"]["serveConfigV2"].count("port: 8000") == 1


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (app(storage="./runs"), "storage"),
        (app(serve=None), "serve"),
        (app(cluster={**CLUSTER, "runtime_env": {"working_dir": "src"}}), "cluster.runtime_env.working_dir"),
    ],
)
def test_what_serve_would_not_find_is_refused(data: dict[str, Any], key: str) -> None:
    with pytest.raises(SpecError) as caught:
        document("serve-config", data)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_nodes_of_a_file_without_any_hold_what_it_asks_for() -> None:
    train = {"batch_size": 12, "parallel": {"workers": 12}, "resources_per_worker": {"CPU": 6, "GPU": 0.5}}
    data = app(cluster={"num_cpus": 72, "num_gpus": 6}, train=train)
    text = render("raycluster", spec_from_dict(data))
    assert "# the file has no cluster.available_node_types" in text
    (worker,) = list(yaml.safe_load_all(text))[-1]["spec"]["workerGroupSpecs"]
    assert worker["maxReplicas"] == 12
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "6", "memory": "24Gi", "nvidia.com/gpu": "1"}


def test_the_most_workers_of_all_types_is_said_to_be_lost_on_kubernetes() -> None:
    assert "# KubeRay has no limit over all types: it may make 8 workers" in render("raycluster", spec_from_dict(app()))


def test_values_hold_what_the_chart_cannot_know() -> None:
    values = document("helm-values", model="film.reviews@train")
    assert yaml.safe_load(values["app"])["name"] == "film.reviews"
    assert values["image"] == {
        "repository": "registry.example.org:5000/fastserve",
        "tag": "1",
        "pullPolicy": "IfNotPresent",
        "pullSecrets": ["registry"],
    }
    assert values["rayService"]["serveConfig"] == document("serve-config", model="film.reviews@train")
    assert values["rayJob"]["entrypoint"] == document("rayjob")["spec"]["entrypoint"]
    assert values["gcsFaultTolerance"]["redis"]["passwordSecret"] == {"name": "redis", "key": "REDIS_PASSWORD"}
    assert values["secretEnv"][0] == {"name": "HF_TOKEN", "secret": "hub", "key": "token"}
    gpu = values["workers"][0]
    assert gpu["resources"] == {"cpu": "16", "memory": "96Gi", "nvidia.com/gpu": "8"}
    serving = {"name": "a", "storage": "s3://b/c", "model": {"base": "gpt2"}, "serve": {}}
    assert document("helm-values", serving)["rayJob"] == {"enabled": False}


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("fastserve", {"repository": "fastserve"}),
        ("host:5000/a/b", {"repository": "host:5000/a/b"}),
        ("host:5000/a/b:1.0", {"repository": "host:5000/a/b", "tag": "1.0"}),
        ("a/b@sha256:0f", {"repository": "a/b", "digest": "sha256:0f"}),
    ],
)
def test_parts_of_an_image(image: str, parts: dict[str, str]) -> None:
    found = document("helm-values", app(cluster={**CLUSTER, "image": image}))["image"]
    assert {name: found[name] for name in found if name in ("repository", "tag", "digest")} == parts


def test_the_command_writes_to_standard_output_or_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = fastserve(capsys, "render", "rayjob", QUICKSTART, *REMOTE)
    assert shown.code == 0
    file = tmp_path / "job.yaml"
    assert fastserve(capsys, "render", "rayjob", QUICKSTART, *REMOTE, "-o", str(file)).out == ""
    assert file.read_text() == shown.out
    assert [each["kind"] for each in yaml.safe_load_all(shown.out)] == ["ConfigMap", "RayJob"]


def test_the_command_refuses_what_the_target_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    refused = fastserve(capsys, "render", "rayjob", QUICKSTART, *REMOTE, "--model", "a@train")
    assert refused.code == 2
    assert "serves no model" in refused.err
    assert fastserve(capsys, "render", "docker", QUICKSTART).code == 2
    unseen = fastserve(capsys, "render", "rayservice", QUICKSTART)
    assert unseen.code == 2
    assert "storage" in unseen.err
    assert "cannot see" in unseen.err


def test_it_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, json\nfrom fastserve_ray.cli.main import main\n"
        f"assert main(['render', 'helm-values', {QUICKSTART!r}, '--set', 'storage=s3://b/c']) == 0\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(json.loads(done.stdout.splitlines()[-1])) & {"torch", "ray", "transformers", "deepspeed"}
