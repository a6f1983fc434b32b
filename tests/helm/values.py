"""Values that the chart's tests start from."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

Values = dict[str, Any]

QUICKSTART = (Path(__file__).parents[2] / "cluster" / "quickstart.yaml").read_text(encoding="utf-8")
APP = QUICKSTART.replace("storage: ./runs", "storage: s3://bucket/runs")
"""Trains and serves."""
SERVE_CONFIG = {
    "http_options": {"host": "0.0.0.0", "port": 8000},
    "applications": [{"name": "demo", "route_prefix": "/", "import_path": "package.module:application"}],
}
CLUSTER: Values = {}
SERVING: Values = {"rayService": {"enabled": True, "serveConfig": SERVE_CONFIG}}
TRAINING: Values = {"app": APP, "rayService": {"enabled": False}}
FAULT_TOLERANT: Values = {"gcsFaultTolerance": {"enabled": True}}


def merged(*parts: Values) -> Values:
    """Later parts win, key by key, as Helm merges values."""
    result: Values = {}
    for part in parts:
        _merge(result, part)
    return result


def _merge(into: Values, part: Values) -> None:
    for key, value in part.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = deepcopy(value)


def at(path: str, value: Any) -> Values:
    """``at("cache.enabled", True)``: {"cache": {"enabled": True}}"""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value  # type: ignore[no-any-return]
