"""The chart as it comes, what Helm says about it, and values that are refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from fastserve_ray import __version__
from tests.helm.engine import CHART, ROOT, lint, need_engine, render
from tests.helm.schemas import need_crds, problems
from tests.helm.values import APP, CLUSTER, FAULT_TOLERANT, QUICKSTART, SERVING, TRAINING, Values, at, merged

STORED = "name: demo\nstorage: /shared/runs\n"
ALL = merged(
    SERVING,
    FAULT_TOLERANT,
    at("app", APP),
    at("rayCluster.enabled", True),
    at("cache.enabled", True),
    at("monitoring", {"enabled": True, "labels": {"release": "prometheus"}}),
    at("dashboards.enabled", True),
    at("ingress", {"enabled": True, "host": "models.example.org"}),
    at("httpRoute", {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["models.example.org"]}),
    at("secretEnv", [{"name": "HF_TOKEN", "secret": "hub", "key": "token"}]),
    at("env", {"LEVEL": 1, "VERBOSE": True}),
)


def test_helm_finds_nothing_to_complain_about() -> None:
    assert [remark for remark in lint() if remark[0] != "info"] == []


def test_every_value_is_in_the_schema_with_its_default_allowed() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    known = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert set(defaults) == set(known) - {"global"}
    assert render(defaults).manifests == render(CLUSTER).manifests


def test_versions_are_those_of_the_package_and_of_its_ray() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == __version__
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={yaml.safe_load((CHART / 'values.yaml').read_text())['rayVersion']}" in constraints
    assert f"fastserve-ray:{__version__} " in (ROOT / "Dockerfile").read_text()


def test_all_at_once_is_valid() -> None:
    rendered = render(ALL)
    assert rendered.problems == []
    assert len({(m["kind"], m["metadata"]["name"]) for m in rendered.manifests}) == len(rendered.manifests)


def test_kuberay_schemas_refuse_what_is_wrong() -> None:
    need_crds()
    manifest = json.loads(json.dumps(render(CLUSTER).of("RayCluster")))
    manifest["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"
    manifest["spec"]["autoscalerOptions"]["version"] = "v3"
    del manifest["spec"]["headGroupSpec"]["template"]
    found = "\n".join(problems(manifest))
    assert "imagePulPolicy" in found
    assert "v3" in found
    assert "'template' is a required property" in found


def test_kubernetes_schemas_refuse_what_is_wrong() -> None:
    manifest = json.loads(json.dumps(render(CLUSTER).of("NetworkPolicy")))
    manifest["spec"]["egres"] = []
    assert problems(manifest) != []


@pytest.mark.parametrize(
    ("app", "made"),
    [
        ("", ["RayCluster"]),
        (f"{STORED}data: {{}}\ntrain: {{}}\n", ["RayJob"]),
        (f"{STORED}compress: [{{kind: quantize}}]\n", ["RayJob"]),
        (f"{STORED}serve: {{port: 8000}}\n", ["RayService"]),
        (APP, ["RayJob", "RayService"]),
    ],
)
def test_the_app_says_what_is_made(app: str, made: list[str]) -> None:
    rendered = render({"app": app})
    assert [kind for kind in rendered.kinds() if kind.startswith("Ray")] == made
    assert rendered.problems == []
    if app:
        assert rendered.of("ConfigMap", "demo-app")["data"] == {"app.yaml": app}


STEPS = at(
    "rayService.upgradeStrategy",
    {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {"gatewayClassName": "istio", "stepSizePercent": 10, "intervalSeconds": 60},
    },
)
REFUSED: dict[str, tuple[Values, str]] = {
    "unknown key": ({"rayservice": {}}, "'rayservice' not allowed"),
    "unknown key inside": (at("cache.sise", "1Gi"), "'sise' not allowed"),
    "strategy": (at("rayService.upgradeStrategy.type", "Rolling"), "NewCluster"),
    "steps without a gateway": (
        at("rayService.upgradeStrategy.type", "NewClusterWithIncrementalUpgrade"),
        "clusterUpgradeOptions",
    ),
    "memory": (at("head.resources.memory", "8 GB"), "pattern"),
    "number of CPUs as a number": (at("head.rayStartParams.num-cpus", 0), "want string"),
    "no DNS": (at("networkPolicy.dns", []), "minItems"),
    "name of a worker group": (
        {"workers": [{"name": "GPU", "replicas": 1, "minReplicas": 1, "maxReplicas": 1}]},
        "pattern",
    ),
    "more replicas than the most": (
        {
            "workers": [
                {
                    "name": "gpu",
                    "replicas": 3,
                    "minReplicas": 1,
                    "maxReplicas": 2,
                    "resources": {"cpu": "1", "memory": "1Gi"},
                    "shm": "1Gi",
                }
            ]
        },
        "minReplicas 1 <= replicas 3 <= maxReplicas 2 is not so",
    ),
    "service without what it serves": (at("rayService.enabled", True), "rayService has nothing to serve"),
    "job without what it runs": (at("rayJob.enabled", True), "rayJob has nothing to do"),
    "app that is none": ({"app": "- a list"}, "app is not the YAML of an app"),
    "app that keeps all to one machine": ({"app": QUICKSTART}, "./runs is no place that all pods see"),
    "app that describes nodes": (
        {"app": f"{STORED}serve: {{}}\ncluster: {{available_node_types: {{}}}}\n"},
        "cluster.available_node_types: take the values that `fastserve render helm-values app.yaml` writes",
    ),
    "app that reads its environment": ({"app": f"{STORED}serve:\n  host: ${{env:HOST}}\n"}, "reads its environment"),
    "route to nothing": (at("ingress.enabled", True), "enable rayService"),
    "route from nowhere": (merged(SERVING, at("httpRoute.enabled", True)), "httpRoute.parentRefs is empty"),
    "steps without an autoscaler": (
        merged(SERVING, STEPS, at("autoscaling.enabled", False)),
        "autoscaling.enabled=true",
    ),
    "steps beside a route": (merged(SERVING, STEPS, at("ingress.enabled", True)), "disable ingress and httpRoute"),
    "certificate for nobody": (
        merged(SERVING, at("ingress", {"enabled": True, "tlsSecret": "certificate"})),
        "ingress.tlsSecret needs ingress.host",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_cannot_work_are_refused(name: str) -> None:
    need_engine()
    from helm_sdkpy import InstallError

    values, words = REFUSED[name]
    with pytest.raises(InstallError, match=re.escape(words)):
        render(values)


def test_names_leave_room_for_kuberays_own() -> None:
    rendered = render(SERVING, release="a" * 53)
    assert rendered.of("RayService")["metadata"]["name"] == "a" * 47
    assert render(merged(SERVING, {"nameOverride": "models"})).of("RayService")["metadata"]["name"] == "models"


def test_notes_name_what_was_made() -> None:
    notes = render(ALL).notes
    for line in (
        "get rayservice demo --watch",
        "port-forward service/demo-serve-svc 8000:8000",
        "http://models.example.org/",
        "get rayjob demo --watch",
        "get raycluster demo --watch",
    ):
        assert line in notes
    assert "gcsFaultTolerance.enabled=true" not in notes
    alone = render(TRAINING).notes
    assert "rayservice" not in alone
    assert "gcsFaultTolerance.enabled=true" in alone


def test_the_dashboard_is_the_one_of_the_metrics_table() -> None:
    from fastserve_ray.serve.dashboard import dashboard

    assert json.loads((CHART / "files" / "dashboard.json").read_text()) == dashboard(), (
        "fastserve dashboard > helm/fastserve/files/dashboard.json"
    )


def test_the_dashboard_is_handed_to_grafana_as_it_is() -> None:
    (data,) = render(ALL).of("ConfigMap", "demo-dashboard")["data"].values()
    assert data == (CHART / "files" / "dashboard.json").read_text()


def test_kinds_of_other_operators_are_as_their_docs_have_them() -> None:
    rendered = render(ALL)
    route: dict[str, Any] = rendered.of("HTTPRoute")["spec"]
    assert route == {
        "parentRefs": [{"name": "gateway"}],
        "hostnames": ["models.example.org"],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "demo-serve-svc", "port": 8000}],
            }
        ],
    }
    monitor = rendered.of("ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"] == {
        "selector": {
            "matchLabels": {
                "ray.io/originated-from-cr-name": "demo",
                "ray.io/originated-from-crd": "RayService",
                "ray.io/node-type": "head",
            }
        },
        "endpoints": [{"port": "serve", "path": "/metrics", "interval": "15s"}],
    }
    pods = rendered.of("PodMonitor")["spec"]
    assert pods["podMetricsEndpoints"] == [{"port": "metrics", "interval": "15s"}]
    assert pods["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "demo"
