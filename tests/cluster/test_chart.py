"""The chart in helm/fastserve takes the values that are rendered, and makes of them what the other targets hold."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from fastserve_ray.cluster.names import kubernetes_name
from tests.cluster.apps import CLUSTER, app, document, documents
from tests.helm.engine import CHART, need_engine, render

SMALL = {key: CLUSTER[key] for key in ("head_node_type", "available_node_types")}
APPS = {
    "everything": app(),
    "little": app(name="little", cluster=None, train={"batch_size": 8}),
    "fixed": app(name="fixed", cluster={**SMALL, "max_workers": 4, "kubernetes": {"shm_size": "2Gi"}}),
}


@pytest.mark.parametrize("name", APPS)
def test_the_values_follow_the_charts_schema(name: str) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.validate(document("helm-values", APPS[name]), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document("helm-values", APPS[name]), "wrkers": []}, schema)


@pytest.mark.parametrize("name", APPS)
def test_the_chart_makes_what_is_rendered_for_kuberay(name: str) -> None:
    need_engine()
    data = APPS[name]
    chart = render(document("helm-values", data), release=kubernetes_name(data["name"]))
    assert [kind for kind in chart.kinds() if kind.startswith("Ray")] == ["RayJob", "RayService"]
    for target, kind in (("rayjob", "RayJob"), ("rayservice", "RayService")):
        config_map, manifest = documents(target, data)
        assert _read(chart.of(kind)["spec"]) == _read(manifest["spec"])
        made = chart.of("ConfigMap", config_map["metadata"]["name"])
        assert yaml.safe_load(made["data"]["app.yaml"]) == yaml.safe_load(config_map["data"]["app.yaml"])


def test_a_cluster_that_stays_is_the_same_too() -> None:
    need_engine()
    others = {"rayCluster": {"enabled": True}, "rayJob": {"enabled": False}, "rayService": {"enabled": False}}
    chart = render({**document("helm-values"), **others}, release=kubernetes_name(app()["name"]))
    assert _read(chart.of("RayCluster")["spec"]) == _read(document("raycluster")["spec"])


def _read(spec: dict[str, Any]) -> dict[str, Any]:
    """With texts that hold YAML as what they mean."""
    for key in ("serveConfigV2", "runtimeEnvYAML"):
        if key in spec:
            spec = {**spec, key: yaml.safe_load(spec[key])}
    return spec
