"""What Ray's cluster launcher is given, asked of its own checks."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.util import prepare_config, validate_config

from fastserve_ray.errors import SpecError
from tests.cluster.apps import CLUSTER, app, document

LOCAL = {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]}


def test_ray_takes_it() -> None:
    config = document("ray-up")
    prepared = prepare_config(config)
    validate_config(prepared)
    gpu = prepared["available_node_types"]["gpu"]
    assert gpu["resources"] == {"CPU": 16, "GPU": 8, "memory": 96 * 2**30, "fast_disk": 2}
    assert (gpu["min_workers"], gpu["max_workers"]) == (1, 4)
    assert gpu["node_config"] == {"InstanceType": "p4d.24xlarge"}
    assert gpu["docker"] == {"worker_image": "registry.example.org/fastserve:1-cuda"}
    assert prepared["available_node_types"]["head"]["resources"]["CPU"] == 0
    hub, redis = "/etc/fastserve/hub token", "/etc/fastserve/redis"
    assert prepared["docker"]["run_options"] == [f"-v '{hub}:{hub}:ro'", f"-v {redis}:{redis}:ro"], "files of secrets"
    assert prepared["max_workers"] == 6
    assert prepared["idle_timeout_minutes"] == 5
    assert prepared["upscaling_speed"] == 1


def test_ray_refuses_what_is_wrong() -> None:
    config = document("ray-up")
    del config["available_node_types"]["gpu"]["resources"]
    with pytest.raises(Exception, match="'resources' is a required property"):
        validate_config(prepare_config(config))


def test_machines_that_are_there_pass_rays_own_bootstrap() -> None:
    config = _bootstrap_config(document("ray-up", app(cluster={**CLUSTER, "provider": LOCAL})), no_config_cache=True)
    (node,) = config["available_node_types"].values()
    assert (node["min_workers"], node["max_workers"]) == (2, 2)
    assert config["head_start_ray_commands"][-1].endswith('--redis-username=ray --redis-password="$REDIS_PASSWORD"')


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_commands_are_shell_and_hold_no_secret(commands: str) -> None:
    """``ray`` is replaced by a function that tells what it was given."""
    config: dict[str, Any] = document("ray-up")
    script = 'ray() { echo $RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S $HF_TOKEN $RAY_REDIS_ADDRESS: "$@"; }\n'
    script += 'cat() { echo content-of "$1"; }\nulimit() { :; }\n'
    done = subprocess.run(
        ["bash", "-e", "-c", script + "RAY_HEAD_IP=10.0.0.1 RAY_REDIS_ADDRESS=\n" + "\n".join(config[commands])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    last = done.stdout.splitlines()[-1]
    assert last.startswith("2 content-of /etc/fastserve/hub token ")
    if commands.startswith("head"):
        assert " redis:6379: start --head " in last
        assert "--num-cpus=0 --num-gpus=0" in last
        assert "--redis-password=content-of /etc/fastserve/redis" in last
    else:
        assert "start --address=10.0.0.1:6379" in last


def test_nothing_starts_without_a_provider_a_file_for_each_secret_and_a_way_to_install() -> None:
    cluster = {key: value for key, value in CLUSTER.items() if key not in ("provider", "image", "setup_commands")}
    cluster |= {"secrets": {"REDIS_PASSWORD": {"name": "redis"}}}
    with pytest.raises(SpecError) as caught:
        document("ray-up", app(cluster=cluster))
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["cluster.provider", "cluster.secrets.REDIS_PASSWORD.file", "cluster.image"]


def test_a_head_that_takes_work_offers_its_processors() -> None:
    config = document("ray-up", app(cluster={**CLUSTER, "work_on_head": True}))
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 4
    assert "--num-cpus" not in config["head_start_ray_commands"][-1]
