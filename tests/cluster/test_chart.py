"""The chart in helm/fastserve takes the values that are rendered, and makes of them what the other targets hold."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from fastserve_ray.cluster.names import kubernetes_name
from fastserve_ray.plan.inputs import is_uri
from fastserve_ray.spec.load import dump_spec, load_spec
from tests.cluster.apps import CLUSTER, app, document, documents
from tests.helm.engine import CHART, need_engine, render

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {key: CLUSTER[key] for key in ("head_node_type", "available_node_types")}
EXAMPLES = sorted((CHART.parents[1] / "cluster").glob("*.yaml"))
TARGETS = {"rayjob": "RayJob", "rayservice": "RayService"}
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
    for target, kind in TARGETS.items():
        config_map, manifest = documents(target, data)
        assert _read(chart.of(kind)["spec"]) == _read(manifest["spec"])
        made = chart.of("ConfigMap", config_map["metadata"]["name"])
        assert yaml.safe_load(made["data"]["app.yaml"]) == yaml.safe_load(config_map["data"]["app.yaml"])


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.stem))
def test_the_chart_makes_what_is_rendered_of_the_examples(file: Path) -> None:
    need_engine()
    data = elsewhere(file)
    chart = render(document("helm-values", data), release=kubernetes_name(data["name"]))
    kinds = {kind: target for target, kind in TARGETS.items() if kind in chart.kinds()}
    assert kinds
    for kind, target in kinds.items():
        assert _read(chart.of(kind)["spec"]) == _read(document(target, data)["spec"])
    assert chart.problems == []


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.stem))
def test_an_app_alone_is_trained_and_served_as_it_is_rendered(file: Path) -> None:
    """Without the values that `fastserve render helm-values` writes, nodes are the chart's own: an app that describes
    nodes is refused."""
    need_engine()
    from helm_sdkpy import InstallError

    data = elsewhere(file)
    values, name = {"app": yaml.safe_dump(data)}, kubernetes_name(data["name"])
    if "available_node_types" in data.get("cluster", {}):
        with pytest.raises(InstallError, match="fastserve render helm-values"):
            render(values, release=name)
        return
    chart = render(values, release=name)
    if "RayService" in chart.kinds():
        made, expected = (_application(spec) for spec in (chart.of("RayService"), document("rayservice", data)))
        assert made == expected
    if "RayJob" in chart.kinds():
        assert chart.of("RayJob")["spec"]["entrypoint"] == document("rayjob", data)["spec"]["entrypoint"]
    assert {"RayService", "RayJob"} & set(chart.kinds())


def test_a_cluster_that_stays_is_the_same_too() -> None:
    need_engine()
    others = {"rayCluster": {"enabled": True}, "rayJob": {"enabled": False}, "rayService": {"enabled": False}}
    chart = render({**document("helm-values"), **others}, release=kubernetes_name(app()["name"]))
    assert _read(chart.of("RayCluster")["spec"]) == _read(document("raycluster")["spec"])


def elsewhere(file: Path) -> dict[str, Any]:
    """An example whose files lie where pods see them."""
    data: dict[str, Any] = dump_spec(load_spec(file))
    if not is_uri(data["storage"]):
        data["storage"] = "s3://bucket/runs"
    for source in data.get("data", {}).values():
        if isinstance(source, dict) and "path" in source and not is_uri(source["path"]):
            source["path"] = f"s3://bucket/{source['path']}"
    return data


def _application(service: dict[str, Any]) -> dict[str, Any]:
    """What Serve is told, without the nodes."""
    config = _read(service["spec"])["serveConfigV2"]
    (application,) = config["applications"]
    app = application["args"]["app"]
    return {**config, "applications": [{**application, "args": {"app": {**app, "cluster": None}}}]}


class _Loader(yaml.SafeLoader):
    """Reads 2e-05 as a number, as Kubernetes does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?e[-+]?[0-9]+$"), list("-+0123456789")
)


def _read(spec: dict[str, Any]) -> dict[str, Any]:
    """With texts that hold YAML as what they mean."""
    for key in ("serveConfigV2", "runtimeEnvYAML"):
        if key in spec:
            spec = {**spec, key: yaml.load(spec[key], _Loader)}
    return spec
