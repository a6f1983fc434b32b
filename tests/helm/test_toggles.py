"""Every toggle of the chart, and its opposite: what is made, and that an API server would take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.helm.engine import CHART, render
from tests.helm.values import CLUSTER, FAULT_TOLERANT, SERVING, TRAINING, Values, at, merged

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helm.engine import Rendered

APART = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"team": "a"}}}
DIGEST = f"sha256:{'ab' * 32}"
REDIS_SECRET = {"name": "redis", "key": "word"}
OWN_REDIS = at("gcsFaultTolerance.redis.address", "redis.infra:6380")
STEPS = {"gatewayClassName": "istio", "maxSurgePercent": 25, "stepSizePercent": 10, "intervalSeconds": 60}
ROUTED = at("httpRoute.parentRefs", [{"name": "gateway"}])
PRIORITY = {"resources": {"cpu": "1", "memory": "2Gi"}, "shm": "1Gi", "priorityClassName": "high"}

PLACED = {
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [APART]}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
}


@dataclass(frozen=True)
class Toggle:
    """Values that turn something on and off, on a base, and how to see whether it is on."""

    base: Values
    on: Values
    off: Values
    is_on: Callable[[Rendered], bool]


def switch(base: Values, path: str, is_on: Callable[[Rendered], bool]) -> Toggle:
    return Toggle(base, at(path, True), at(path, False), is_on)


def given(base: Values, on: Values, is_on: Callable[[Rendered], bool]) -> Toggle:
    """Off: as the chart comes."""
    return Toggle(base, on, {}, is_on)


def makes(kind: str) -> Callable[[Rendered], bool]:
    return lambda rendered: kind in rendered.kinds()


def cluster(rendered: Rendered) -> dict[str, Any]:
    spec: dict[str, Any] = rendered.of("RayCluster")["spec"]
    return spec


def head(rendered: Rendered) -> dict[str, Any]:
    pod: dict[str, Any] = cluster(rendered)["headGroupSpec"]["template"]["spec"]
    return pod


def group(rendered: Rendered) -> dict[str, Any]:
    """The pod template of the only group of workers."""
    (found,) = cluster(rendered)["workerGroupSpecs"]
    template: dict[str, Any] = found["template"]
    return template


def volume(rendered: Rendered, name: str) -> dict[str, Any]:
    (found,) = (volume for volume in head(rendered)["volumes"] if volume["name"] == name)
    return dict(found)


def mounts(rendered: Rendered) -> list[str]:
    return [mount["mountPath"] for mount in head(rendered)["containers"][0]["volumeMounts"]]


def ports_out(rendered: Rendered) -> set[int]:
    rules = rendered.of("NetworkPolicy", "demo")["spec"]["egress"]
    return {port["port"] for rule in rules for port in rule.get("ports", ())}


def has_redis_with_password(rendered: Rendered) -> bool:
    redis = rendered.of("StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    secret = {"valueFrom": {"secretKeyRef": REDIS_SECRET}}
    asks = "--requirepass" in redis["args"]
    assert asks == ("env" in redis)
    assert asks == (cluster(rendered)["gcsFaultToleranceOptions"].get("redisPassword") == secret)
    return asks


TOGGLES = {
    "rayCluster": switch(merged(SERVING), "rayCluster.enabled", makes("RayCluster")),
    "rayService": switch(merged(SERVING), "rayService.enabled", makes("RayService")),
    "rayJob": switch(TRAINING, "rayJob.enabled", makes("RayJob")),
    "app": given(
        CLUSTER,
        {"app": "name: demo\nstorage: s3://bucket/runs\n"},
        lambda r: "/etc/fastserve" in mounts(r) and makes("ConfigMap")(r),
    ),
    "autoscaling": switch(
        CLUSTER,
        "autoscaling.enabled",
        lambda r: cluster(r)["enableInTreeAutoscaling"] and "autoscalerOptions" in cluster(r),
    ),
    "the autoscaler's token": switch(
        CLUSTER, "autoscaling.enabled", lambda r: bool(head(r)["automountServiceAccountToken"])
    ),
    "the autoscaler's way to Kubernetes": switch(CLUSTER, "autoscaling.enabled", lambda r: 6443 in ports_out(r)),
    "autoscaler v1": given(
        CLUSTER, at("autoscaling.version", "v1"), lambda r: cluster(r)["autoscalerOptions"]["version"] == "v1"
    ),
    "gcsFaultTolerance": switch(
        CLUSTER, "gcsFaultTolerance.enabled", lambda r: "gcsFaultToleranceOptions" in cluster(r)
    ),
    "a Redis of the chart": switch(CLUSTER, "gcsFaultTolerance.enabled", makes("StatefulSet")),
    "a Redis of one's own": given(
        FAULT_TOLERANT,
        OWN_REDIS,
        lambda r: (
            cluster(r)["gcsFaultToleranceOptions"]["redisAddress"] == "redis.infra:6380"
            and not makes("StatefulSet")(r)
            and 6380 in ports_out(r)
        ),
    ),
    "a password of Redis": given(
        FAULT_TOLERANT, at("gcsFaultTolerance.redis.passwordSecret", REDIS_SECRET), has_redis_with_password
    ),
    "the head's budget": Toggle(
        CLUSTER,
        at("gcsFaultTolerance.enabled", False),
        at("gcsFaultTolerance.enabled", True),
        lambda r: "demo-head" in [m["metadata"]["name"] for m in r.manifests if m["kind"] == "PodDisruptionBudget"],
    ),
    "podDisruptionBudget": switch(CLUSTER, "podDisruptionBudget.enabled", makes("PodDisruptionBudget")),
    "networkPolicy": switch(FAULT_TOLERANT, "networkPolicy.enabled", makes("NetworkPolicy")),
    "https": Toggle(at("autoscaling.enabled", False), {}, at("networkPolicy.https", []), lambda r: 443 in ports_out(r)),
    "auth": switch(CLUSTER, "auth.enabled", lambda r: cluster(r).get("authOptions") == {"mode": "token"}),
    "a token of one's own": given(
        CLUSTER, at("auth.secretName", "token"), lambda r: cluster(r)["authOptions"].get("secretName") == "token"
    ),
    "cache": switch(
        CLUSTER,
        "cache.enabled",
        lambda r: (
            makes("PersistentVolumeClaim")(r)
            and volume(r, "cache").get("persistentVolumeClaim") == {"claimName": "demo-cache"}
        ),
    ),
    "a claim of one's own": given(
        at("cache.enabled", True),
        at("cache.existingClaim", "models"),
        lambda r: (
            not makes("PersistentVolumeClaim")(r)
            and volume(r, "cache")["persistentVolumeClaim"] == {"claimName": "models"}
        ),
    ),
    "monitoring": switch(
        SERVING, "monitoring.enabled", lambda r: makes("ServiceMonitor")(r) and makes("PodMonitor")(r)
    ),
    "dashboards": switch(CLUSTER, "dashboards.enabled", makes("ConfigMap")),
    "ingress": switch(SERVING, "ingress.enabled", makes("Ingress")),
    "tls": given(
        merged(SERVING, at("ingress", {"enabled": True, "host": "models.example.org"})),
        at("ingress.tlsSecret", "certificate"),
        lambda r: (
            r.of("Ingress")["spec"].get("tls") == [{"hosts": ["models.example.org"], "secretName": "certificate"}]
        ),
    ),
    "httpRoute": switch(merged(SERVING, ROUTED), "httpRoute.enabled", makes("HTTPRoute")),
    "shutdownAfterJobFinishes": switch(
        TRAINING,
        "rayJob.shutdownAfterJobFinishes",
        lambda r: (
            r.of("RayJob")["spec"]["shutdownAfterJobFinishes"] and r.of("RayJob")["spec"]["ttlSecondsAfterFinished"] > 0
        ),
    ),
    "a deadline": given(
        TRAINING,
        at("rayJob.activeDeadlineSeconds", 3600),
        lambda r: r.of("RayJob")["spec"].get("activeDeadlineSeconds") == 3600,
    ),
    "an upgrade in steps": given(
        SERVING,
        at("rayService.upgradeStrategy", {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": STEPS}),
        lambda r: r.of("RayService")["spec"]["upgradeStrategy"].get("clusterUpgradeOptions") == STEPS,
    ),
    "no new cluster": given(
        SERVING,
        at("rayService.upgradeStrategy.type", "None"),
        lambda r: r.of("RayService")["spec"]["upgradeStrategy"]["type"] == "None",
    ),
    "imagePullSecrets": given(
        CLUSTER,
        at("image.pullSecrets", ["registry"]),
        lambda r: head(r).get("imagePullSecrets") == [{"name": "registry"}],
    ),
    "serviceAccountName": given(
        CLUSTER, {"serviceAccountName": "ray"}, lambda r: head(r).get("serviceAccountName") == "ray"
    ),
    "where workers run": given(
        CLUSTER,
        {"worker": {**PLACED, "labels": {"team": "a"}, "annotations": {"note": "b"}}},
        lambda r: (
            PLACED.items() <= group(r)["spec"].items()
            and group(r)["metadata"]["labels"].get("team") == "a"
            and group(r)["metadata"].get("annotations") == {"note": "b"}
        ),
    ),
    "priorityClassName": given(CLUSTER, {"head": PRIORITY}, lambda r: head(r).get("priorityClassName") == "high"),
    "a digest": given(
        CLUSTER,
        at("image.digest", DIGEST),
        lambda r: head(r)["containers"][0]["image"] == f"fastserve-ray@{DIGEST}",
    ),
    "a tag": given(CLUSTER, at("image.tag", "1.2"), lambda r: head(r)["containers"][0]["image"] == "fastserve-ray:1.2"),
    "an image of the head": given(
        CLUSTER, at("head.image", "own:1"), lambda r: head(r)["containers"][0]["image"] == "own:1"
    ),
    "a volume": given(
        CLUSTER,
        {"volumes": [{"claim": "shared", "path": "/shared", "readOnly": True}]},
        lambda r: "/shared" in mounts(r) and volume(r, "volume-0")["persistentVolumeClaim"]["readOnly"],
    ),
    "Ray's labels": given(
        CLUSTER,
        at("head.rayLabels", {"zone": "a"}),
        lambda r: cluster(r)["headGroupSpec"].get("labels") == {"zone": "a"},
    ),
    "a user of Redis": given(
        merged(FAULT_TOLERANT, OWN_REDIS),
        at("gcsFaultTolerance.redis.username", "ray"),
        lambda r: cluster(r)["gcsFaultToleranceOptions"].get("redisUsername") == {"value": "ray"},
    ),
    "a namespace in Redis": given(
        FAULT_TOLERANT,
        at("gcsFaultTolerance.externalStorageNamespace", "demo"),
        lambda r: cluster(r)["gcsFaultToleranceOptions"].get("externalStorageNamespace") == "demo",
    ),
    "no workers": given(CLUSTER, {"workers": []}, lambda r: cluster(r)["workerGroupSpecs"] == []),
    "work on the head": given(
        CLUSTER, at("head.rayStartParams", {}), lambda r: cluster(r)["headGroupSpec"]["rayStartParams"] == {}
    ),
    "a runtime environment": given(
        TRAINING,
        at("rayJob.runtimeEnv", {"pip": ["emoji"]}),
        lambda r: yaml.safe_load(r.of("RayJob")["spec"].get("runtimeEnvYAML", "")) == {"pip": ["emoji"]},
    ),
    "a read-only root": switch(
        CLUSTER,
        "securityContext.readOnlyRootFilesystem",
        lambda r: head(r)["containers"][0]["securityContext"]["readOnlyRootFilesystem"],
    ),
}


@pytest.mark.parametrize("name", TOGGLES)
def test_a_toggle_does_what_it_says_and_all_manifests_are_valid(name: str) -> None:
    toggle = TOGGLES[name]
    on, off = (render(merged(toggle.base, values)) for values in (toggle.on, toggle.off))
    assert toggle.is_on(on)
    assert not toggle.is_on(off)
    assert on.problems == []
    assert off.problems == []


def test_no_toggle_is_left_out() -> None:
    """Every value that is true or false, or null for what the app says."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    switches = {
        path
        for path, value in _leaves(defaults)
        if (isinstance(value, bool) or path.endswith(".enabled")) and "ecurityContext" not in path
    }
    assert len(switches) > 12
    tried = {path for toggle in TOGGLES.values() for part in (toggle.on, toggle.off) for path, _ in _leaves(part)}
    assert switches - tried == set()


def _leaves(values: Values, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted paths, and what is there."""
    return [
        leaf
        for key, value in values.items()
        for leaf in (_leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)])
    ]
