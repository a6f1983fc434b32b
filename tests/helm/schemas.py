"""Whether an API server would take a manifest: Kubernetes' own schemas, and those of KubeRay's CRDs where they are."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate
import pytest
import yaml

KUBERNETES = ("1.29", "1.33", "1.37")
"""The oldest that the chart takes, one between, and the newest whose schemas are there."""
WITHOUT_SCHEMA = {"HTTPRoute", "PodMonitor", "ServiceMonitor"}
"""Kinds of CRDs that are not at hand; tests compare them word by word."""
KEPT = {
    *("type", "enum", "pattern", "required"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
}
"""Words that OpenAPI's schemas and JSON Schema share."""
Schema = dict[str, Any]


def problems(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with a manifest, where; unknown fields too."""
    if manifest["apiVersion"] == "ray.io/v1":
        return ray_problems(manifest)
    if manifest["kind"] in WITHOUT_SCHEMA:
        return []
    text = json.dumps(manifest, sort_keys=True)
    return [problem for version in KUBERNETES for problem in _built_in(text, version)]


def ray_problems(manifest: dict[str, Any]) -> list[str]:
    """What KubeRay's CRD says about a manifest; nothing where there are no CRDs (see `need_crds`)."""
    if crd_folder() is None:
        return []
    schema, validator = _crd(manifest["kind"])
    completed = _with_defaults(manifest, schema)
    return [f"{_where(error)}: {error.message[:200]}" for error in validator.iter_errors(completed)]


def need_crds() -> None:
    """Skip, and say so, where KubeRay's CRDs are not there."""
    if crd_folder() is None:
        pytest.skip("no folder kuberay-crds under $FASTSERVE_SHARED: KubeRay's schemas were not asked")


def crd_folder() -> Path | None:
    shared = os.environ.get("FASTSERVE_SHARED")
    folder = Path(shared) / "kuberay-crds" if shared else None
    return folder if folder is not None and folder.is_dir() else None


@cache
def _crd(kind: str) -> tuple[Schema, jsonschema.Draft202012Validator]:
    folder = crd_folder()
    assert folder is not None
    definition = yaml.load((folder / f"ray.io_{kind.lower()}s.yaml").read_text(), yaml.CSafeLoader)
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema, jsonschema.Draft202012Validator(_closed(schema))


@cache
def _built_in(manifest: str, version: str) -> tuple[str, ...]:
    """Of a manifest's JSON: most of the manifests that tests render are alike."""
    try:
        kubernetes_validate.validate(json.loads(manifest), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (f"Kubernetes {version}: {'/'.join(map(str, error.path))}: {error.message[:200]}",)
    return ()


def _where(error: jsonschema.ValidationError) -> str:
    return "/".join(map(str, error.absolute_path))


def _closed(schema: Schema) -> Schema:
    """A CRD's schema as JSON Schema that refuses unknown fields, as the API server does with strict validation."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string", **_part(schema, {"pattern"})}]}
    closed = _part(schema, KEPT)
    if "properties" in schema:
        closed["properties"] = {name: _closed(part) for name, part in schema["properties"].items()}
        is_open = any(schema.get(f"x-kubernetes-{word}") for word in ("preserve-unknown-fields", "embedded-resource"))
        closed["additionalProperties"] = is_open
    for word in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(word), dict):
            closed[word] = _closed(schema[word])
    for word in ("anyOf", "allOf", "oneOf"):
        if word in schema:
            closed[word] = [_closed(part) for part in schema[word]]
    if schema.get("nullable") and "type" in closed:
        closed["type"] = [closed["type"], "null"]
    return closed


def _part(schema: Schema, words: set[str]) -> Schema:
    return {word: value for word, value in schema.items() if word in words}


def _with_defaults(value: Any, schema: Schema) -> Any:
    """The API server fills in a schema's defaults before it validates."""
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [_with_defaults(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {})
    rest = schema.get("additionalProperties")
    defaults = {name: deepcopy(part["default"]) for name, part in known.items() if "default" in part}
    return {
        name: _with_defaults(item, known.get(name, rest if isinstance(rest, dict) else {}))
        for name, item in (defaults | value).items()
    }
