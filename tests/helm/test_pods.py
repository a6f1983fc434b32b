"""What the chart's pods are held to: the restricted pod security standard, probes, memory, secrets by reference."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.helm.engine import render
from tests.helm.test_chart import ALL
from tests.helm.values import SERVE_CONFIG, SERVING, TRAINING, at, merged

PASSWORD = at("gcsFaultTolerance.redis.passwordSecret", {"name": "redis", "key": "word"})


def templates() -> dict[str, dict[str, Any]]:
    """Every pod template that everything at once makes, by a name of its own."""
    found = {}
    for manifest in render(merged(ALL, PASSWORD)).manifests:
        spec = manifest.get("spec", {})
        kind = manifest["kind"]
        if kind in {"RayCluster", "RayJob", "RayService"}:
            nodes = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
            found[f"{kind} head"] = nodes["headGroupSpec"]["template"]
            found |= {f"{kind} {group['groupName']}": group["template"] for group in nodes["workerGroupSpecs"]}
        if "submitterPodTemplate" in spec:
            found["submitter"] = spec["submitterPodTemplate"]
        if kind == "StatefulSet":
            found["redis"] = spec["template"]
    return found


def test_there_are_pods_to_look_at() -> None:
    assert len(templates()) == 8


def test_pods_fulfil_the_restricted_profile_and_more() -> None:
    for name, template in templates().items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert not any("hostPath" in volume for volume in pod.get("volumes", ())), name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_only_the_autoscaler_gets_a_token_of_kubernetes() -> None:
    with_token = {name for name, pod in templates().items() if pod["spec"]["automountServiceAccountToken"]}
    assert with_token == {"RayCluster head", "RayJob head", "RayService head"}
    options = render(ALL).of("RayCluster")["spec"]["autoscalerOptions"]
    assert options["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"name": "tmp", "mountPath": "/tmp"} in options["volumeMounts"]


def test_containers_have_bounds_that_are_also_their_requests() -> None:
    for name, template in templates().items():
        for container in template["spec"]["containers"]:
            assert container["resources"]["limits"] == container["resources"]["requests"], name
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name


def test_what_is_written_has_a_place_beside_the_read_only_root() -> None:
    for name, template in templates().items():
        if name in {"redis", "submitter"}:
            continue
        pod = template["spec"]
        mounted = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {"tmp": "/tmp", "shm": "/dev/shm", "cache": "/cache", "app": "/etc/fastserve"}, name
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes.keys() == mounted.keys(), name
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory", name
        assert "sizeLimit" in volumes["shm"]["emptyDir"], name
        environment = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
        assert environment["HOME"] == "/tmp", name
        assert environment["HF_HOME"].startswith("/cache/"), name


def test_secrets_come_by_reference() -> None:
    for name, template in templates().items():
        if name == "submitter":
            continue
        environment = {entry["name"]: entry for entry in template["spec"]["containers"][0]["env"]}
        if name == "redis":
            reference = {"name": "redis", "key": "word"}
            assert environment["REDIS_PASSWORD"]["valueFrom"] == {"secretKeyRef": reference}
            continue
        assert environment["HF_TOKEN"] == {
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}},
        }
        assert (environment["LEVEL"]["value"], environment["VERBOSE"]["value"]) == ("1", "true")
    assert "Secret" not in render(merged(ALL, PASSWORD)).kinds()


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_every_node_is_probed(probe: str) -> None:
    for name, template in templates().items():
        if name == "submitter":
            continue
        found = template["spec"]["containers"][0][probe]
        if name == "redis":
            assert found["tcpSocket"] == {"port": "redis"}
        elif (name, probe) == ("RayService cpu", "readinessProbe"):
            assert found["httpGet"] == {"path": "/-/healthz", "port": 8000}
        else:
            assert found["httpGet"] == {"path": "/api/healthz", "port": 52365}, name
        assert found["periodSeconds"] * found["failureThreshold"] >= 10


def test_the_head_does_no_work() -> None:
    for kind in ("RayCluster", "RayJob", "RayService"):
        spec = render(ALL).of(kind)["spec"]
        nodes = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
        assert nodes["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}


def test_another_port_of_the_endpoint_is_followed_everywhere() -> None:
    values = merged(
        SERVING,
        at("rayService.serveConfig.http_options.port", 9000),
        at("ingress.enabled", True),
        at("httpRoute", {"enabled": True, "parentRefs": [{"name": "gateway"}]}),
    )
    rendered = render(values)
    group = rendered.of("RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    container = group["template"]["spec"]["containers"][0]
    assert {"name": "serve", "containerPort": 9000} in container["ports"]
    assert container["readinessProbe"]["httpGet"]["port"] == 9000
    (path,) = rendered.of("Ingress")["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"]["port"] == {"number": 9000}
    assert rendered.of("HTTPRoute")["spec"]["rules"][0]["backendRefs"][0]["port"] == 9000
    allowed = {
        port["port"] for rule in rendered.of("NetworkPolicy")["spec"]["ingress"] for port in rule.get("ports", ())
    }
    assert 9000 in allowed
    assert 8000 not in allowed
    assert rendered.problems == []


def test_network_policy_lets_in_and_out_what_is_needed_and_no_more() -> None:
    policy = render(ALL).of("NetworkPolicy", "demo")["spec"]
    own = {"app.kubernetes.io/part-of": "fastserve", "app.kubernetes.io/instance": "demo"}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["podSelector"]["matchLabels"] == own
    within, clients, operator, monitoring = policy["ingress"]
    assert within == {"from": [{"podSelector": {"matchLabels": own}}]}
    assert [port["port"] for port in clients["ports"]] == [8000]
    assert {port["port"] for port in operator["ports"]} == {8000, 8265, 52365}
    assert {port["port"] for port in monitoring["ports"]} == {8000, 8080}
    names = [rule for rule in policy["egress"] if {"protocol": "UDP", "port": 53} in rule.get("ports", ())]
    assert len(names) == 1
    assert {"protocol": "TCP", "port": 53} in names[0]["ports"]
    assert names[0]["to"][0] == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    redis = render(ALL).of("NetworkPolicy", "demo-redis")["spec"]
    assert redis["egress"] == []
    assert redis["ingress"][0]["from"] == [{"podSelector": {"matchLabels": own}}]


def test_budgets_select_the_pods_of_their_kind() -> None:
    rendered = render(SERVING)
    for role in ("head", "worker"):
        budget = rendered.of("PodDisruptionBudget", f"demo-{role}")["spec"]
        assert budget["selector"]["matchLabels"]["ray.io/node-type"] == role
        assert budget["minAvailable"] == 1
    template = rendered.of("RayService")["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    selected = rendered.of("PodDisruptionBudget", "demo-head")["spec"]["selector"]["matchLabels"]
    assert {key: value for key, value in selected.items() if key != "ray.io/node-type"}.items() <= (
        template["metadata"]["labels"].items()
    )


def test_a_job_runs_the_app_it_was_given() -> None:
    job = render(TRAINING)
    command = "fastserve run /etc/fastserve/app.yaml --set cluster.address=auto --until verify"
    assert job.of("RayJob")["spec"]["entrypoint"] == command
    own = render(merged(TRAINING, at("rayJob.entrypoint", "python train.py")))
    assert own.of("RayJob")["spec"]["entrypoint"] == "python train.py"


def test_what_is_served_is_the_config_that_was_given() -> None:

    spec = render(SERVING).of("RayService")["spec"]
    assert yaml.safe_load(spec["serveConfigV2"]) == SERVE_CONFIG
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    assert spec["rayClusterDeletionDelaySeconds"] > 0
