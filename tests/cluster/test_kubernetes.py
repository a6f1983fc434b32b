"""What KubeRay is given."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from fastserve_ray.cluster.names import MAX_NAME, kubernetes_name
from fastserve_ray.errors import SpecError
from fastserve_ray.spec.load import dump_spec, parse_spec
from tests.cluster.apps import CLUSTER, app, document, documents
from tests.helm.schemas import need_crds, ray_problems

SERVING = {"name": "a", "storage": "s3://b/c", "model": {"base": "gpt2"}, "serve": {}}
KINDS = {"raycluster": "cluster", "rayservice": "serve", "rayjob": "train"}


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]
    return spec.get("rayClusterConfig") or spec.get("rayClusterSpec") or spec


def pods_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Templates of the head, of the workers, and of what submits a job."""
    cluster = cluster_of(manifest)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    submitter = manifest["spec"].get("submitterPodTemplate")
    return [*(group["template"] for group in groups), *([submitter] if submitter else [])]


@pytest.mark.parametrize("target", KINDS)
def test_kuberay_takes_it(target: str) -> None:
    need_crds()
    manifest = document(target)
    assert ray_problems(manifest) == []
    cluster_of(manifest)["headGroupSpec"]["template"]["spec"]["containers"][0]["imge"] = "a"
    assert "imge" in str(ray_problems(manifest)), "the check sees a wrong field"


@pytest.mark.parametrize("target", KINDS)
def test_the_file_comes_along_and_reads_as_before(target: str) -> None:
    config_map, manifest = documents(target)
    assert config_map["metadata"]["name"] == f"{manifest['metadata']['name']}-app"
    assert config_map["metadata"]["namespace"] == manifest["metadata"]["namespace"] == "ml"
    found = dump_spec(parse_spec(config_map["data"]["app.yaml"], env={}))
    assert found == {**app(), "cluster": {**CLUSTER, "address": "auto"}, "serve": found["serve"]}
    for pod in pods_of(manifest)[:3]:
        (mount,) = (m for m in pod["spec"]["containers"][0]["volumeMounts"] if m["name"] == "app")
        assert mount == {"name": "app", "mountPath": "/etc/fastserve", "readOnly": True}


@pytest.mark.parametrize("target", KINDS)
def test_pods_are_restricted(target: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and a read-only root."""
    manifest = document(target)
    for pod in pods_of(manifest):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 2000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"] == container["resources"]["requests"]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["tmp"] == {"name": "tmp", "emptyDir": {}}
    tokens = [pod["spec"]["automountServiceAccountToken"] for pod in pods_of(manifest)]
    assert tokens == [True, *[False] * (len(tokens) - 1)], "only the autoscaler asks Kubernetes"


@pytest.mark.parametrize("target", KINDS)
def test_no_secret_is_written_out(target: str) -> None:
    manifest = document(target)
    for pod in pods_of(manifest)[:3]:
        env = {each["name"]: each for each in pod["spec"]["containers"][0]["env"]}
        assert env["HF_TOKEN"] == {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
        reference = {"name": "redis", "key": "REDIS_PASSWORD"}
        assert env["REDIS_PASSWORD"]["valueFrom"] == {"secretKeyRef": reference}
    tolerance = cluster_of(manifest)["gcsFaultToleranceOptions"]
    assert tolerance == {
        "redisAddress": "redis:6379",
        "redisUsername": {"value": "ray"},
        "redisPassword": {"valueFrom": {"secretKeyRef": reference}},
        "externalStorageNamespace": "films",
    }


def test_node_types_are_groups() -> None:
    cluster = cluster_of(document("raycluster"))
    head, (gpu, cpu) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert (gpu["groupName"], gpu["replicas"], gpu["minReplicas"], gpu["maxReplicas"]) == ("gpu", 1, 1, 4)
    assert (cpu["groupName"], cpu["replicas"], cpu["minReplicas"], cpu["maxReplicas"]) == ("cpu", 0, 0, 4)
    assert json.loads(json.loads(gpu["rayStartParams"]["resources"])) == {"fast_disk": 2}
    assert gpu["labels"] == {"disk": "fast"}
    pod = gpu["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "16", "memory": "96Gi", "nvidia.com/gpu": "8"}
    assert pod["containers"][0]["image"] == "registry.example.org/fastserve:1-cuda"
    assert pod["nodeSelector"] == {"cloud.example.org/gpu": "a100"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["serviceAccountName"] == "trainer"
    volumes = {volume["name"]: volume for volume in cpu["template"]["spec"]["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "10240Mi"}
    assert volumes["cache"] == {"name": "cache", "persistentVolumeClaim": {"claimName": "models"}}
    assert volumes["volume-0"]["persistentVolumeClaim"] == {"claimName": "data", "readOnly": True}
    assert "nodeSelector" not in cpu["template"]["spec"]


def test_the_autoscaler_is_there_where_nodes_come_and_go() -> None:
    cluster = cluster_of(document("raycluster"))
    options = cluster["autoscalerOptions"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert [options[name] for name in ("version", "idleTimeoutSeconds", "upscalingMode")] == ["v2", 300, "Conservative"]


def test_there_is_no_autoscaler_where_all_nodes_are_always_there() -> None:
    worker = {"resources": {"CPU": 8, "GPU": 8, "memory": "30Gi"}, "min_workers": 4, "max_workers": 4}
    types = {"head": CLUSTER["available_node_types"]["head"], "worker": worker}
    cluster = cluster_of(document("raycluster", app(cluster={**CLUSTER, "available_node_types": types})))
    assert cluster["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in cluster
    assert cluster["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_a_worker_of_a_service_is_ready_when_its_proxy_is() -> None:
    paths = {
        target: [
            pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] for pod in pods_of(document(target))[:2]
        ]
        for target in KINDS
    }
    node = "/api/healthz"
    assert paths == {"raycluster": [node, node], "rayjob": [node, node], "rayservice": [node, "/-/healthz"]}


def test_a_job_does_all_before_serving_in_the_cluster_it_runs_in() -> None:
    spec = document("rayjob")["spec"]
    command = "fastserve run /etc/fastserve/app.yaml --set cluster.address=auto"
    assert spec["entrypoint"] == f"{command} --until verify"
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == CLUSTER["runtime_env"]
    assert document("rayjob", app(serve=None))["spec"]["entrypoint"] == command


def test_a_service_has_the_serve_configuration() -> None:
    config = yaml.safe_load(document("rayservice", model="film.reviews@train")["spec"]["serveConfigV2"])
    assert config["http_options"] == {"host": "0.0.0.0", "port": 8000}
    (application,) = config["applications"]
    assert application["args"]["model"] == "film.reviews@train"
    assert application["runtime_env"] == CLUSTER["runtime_env"]
    assert application["args"]["app"]["serve"]["autoscaling_config"]["min_replicas"] == 0


@pytest.mark.parametrize(
    ("target", "data", "key", "words"),
    [
        ("rayservice", app(serve=None), "serve", "serves nothing"),
        ("rayjob", SERVING, "train", "nothing is trained"),
        ("rayservice", app(storage="./runs"), "storage", "cannot see"),
        ("rayservice", app(storage="file:///mnt/runs"), "storage", "cannot see"),
        ("rayjob", app(data={"train": {"path": "train.parquet"}, "max_length": 64}), "data.train.path", "cannot see"),
        ("rayjob", app(cluster={**CLUSTER, "runtime_env": {"working_dir": "."}}), "cluster.runtime_env.working_dir",
         "a folder of this machine"),
        ("raycluster", app(cluster={**CLUSTER, "secrets": {"A": {"file": "/a"}}, "fault_tolerance": None}),
         "cluster.secrets.A.name", "no Secret"),
        ("rayservice", app(serve={"auth": {"keys_env": "KEYS"}}), "serve.auth.keys_env", "no pod has"),
        ("rayservice", app(serve={"auth": {"keys_file": "/home/me/keys.yaml"}}), "serve.auth.keys_file", "cannot see"),
        ("rayservice", app(serve={"models": {"b": {"base": "./b"}}}), "serve.models.b.base", "cannot see"),
        ("raycluster", app(cluster={"head_node_type": "head", "work_on_head": True, "available_node_types": {
            "head": {"resources": {"CPU": 64, "GPU": 8}}}}),
         "cluster.available_node_types.head.resources.memory", "must know the pod's memory"),
    ],
)  # fmt: skip
def test_what_pods_cannot_have_is_refused(target: str, data: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        document(target, data)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert words in str(caught.value)
    assert caught.value.problems[0].allowed


@pytest.mark.parametrize(
    "data",
    [
        app(storage="/data/runs"),
        app(serve={"auth": {"keys_env": "HF_TOKEN"}}),
        app(serve={"auth": {"keys_file": "/data/keys.yaml"}}),
        app(data={"train": {"path": "/cache/train.parquet"}, "max_length": 64}),
    ],
)
def test_volumes_and_secrets_are_seen(data: dict[str, Any]) -> None:
    assert document("rayservice", data)["kind"] == "RayService"


def test_a_service_of_a_model_that_is_named_reads_no_data() -> None:
    data = app(data={"train": {"path": "train.parquet"}, "max_length": 64})
    assert document("rayservice", data, model="artifact:train-0123456789abcdef")["kind"] == "RayService"
    with pytest.raises(SpecError, match=r"data\.train\.path"):
        document("rayservice", data)


@pytest.mark.parametrize("name", ["a", "film.reviews", "7b", "x" * 63, "a-b", "a_b", "1"])
def test_names(name: str) -> None:
    found = kubernetes_name(name)
    assert found[0].isalpha()
    assert found.replace("-", "").isalnum()
    assert len(found) <= MAX_NAME
    assert (found == name) == (name in ("a", "a-b"))


def test_different_names_stay_different() -> None:
    names = ["a.b", "a_b", "a-b", "x" * 62, "x" * 63]
    assert len({kubernetes_name(name) for name in names}) == len(names)
