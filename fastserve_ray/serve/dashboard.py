"""A Grafana dashboard of the server's metrics, made from their table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.serve.metric_table import METRICS

if TYPE_CHECKING:
    from fastserve_ray.serve.metric_table import Metric

TITLE = "FastServe-Ray"
UID = "fastserve-ray"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
QUANTILES = (0.5, 0.95, 0.99)
COLUMNS, WIDTH, HEIGHT = 3, 8, 8
"""Of Grafana's 24 columns a row."""
FILTERED = ("model", "key")
"""Labels that the dashboard's variables choose."""
HIT_RATE = (
    "Prefix hit rate",
    'sum by (model) (rate(fastserve_prefix_cache_hits_total{model=~"$model"}[$__rate_interval])) / '
    'sum by (model) (rate(fastserve_prefix_cache_queries_total{model=~"$model"}[$__rate_interval]))',
)


def dashboard() -> dict[str, Any]:
    """As Grafana imports it; a row for each group of the table, a panel for each metric."""
    groups = list(dict.fromkeys(metric.group for metric in METRICS))
    panels: list[dict[str, Any]] = []
    y = 0
    for group in groups:
        panels.append(_row(group, y))
        y += 1
        own = [_panel(metric) for metric in METRICS if metric.group == group]
        if group == "Engines":
            own.append(_timeseries(*_titled(HIT_RATE), unit="percentunit"))
        for at, panel in enumerate(own):
            place = {"x": at % COLUMNS * WIDTH, "y": y + at // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append({**panel, "gridPos": place})
        y += -(-len(own) // COLUMNS) * HEIGHT
    for number, panel in enumerate(panels):
        panel["id"] = number + 1
    return {
        "title": TITLE,
        "uid": UID,
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source_variable(), *(_variable(label) for label in FILTERED)]},
        "panels": panels,
    }


def expressions(metric: Metric) -> dict[str, str]:
    """By legend, what a panel of ``metric`` shows, in PromQL."""
    by = [label for label in metric.labels if label != "replica"]
    chosen = ",".join(f'{label}=~"${label}"' for label in metric.labels if label in FILTERED)
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    if metric.kind == "gauge":
        return {legend: f"sum by ({', '.join(metric.labels)}) ({metric.full_name}{{{chosen}}})"}
    if metric.kind == "counter":
        rate = f"rate({metric.full_name}{{{chosen}}}[$__rate_interval])"
        return {legend: f"sum by ({', '.join(metric.labels)}) ({rate})"}
    rate = f"sum by (le, {', '.join(by)}) (rate({metric.full_name}_bucket{{{chosen}}}[$__rate_interval]))"
    return {f"p{quantile * 100:g} {legend}": f"histogram_quantile({quantile}, {rate})" for quantile in QUANTILES}


def _panel(metric: Metric) -> dict[str, Any]:
    title = metric.name.replace("_", " ").removesuffix(" seconds").capitalize()
    return _timeseries(title, expressions(metric), unit=metric.unit, text=metric.text)


def _titled(named: tuple[str, str]) -> tuple[str, dict[str, str]]:
    return named[0], {"{{model}}": named[1]}


def _timeseries(title: str, shown: dict[str, str], *, unit: str, text: str = "") -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for at, (legend, query) in enumerate(shown.items())
        ],
    }


def _row(title: str, y: int) -> dict[str, Any]:
    return {
        "type": "row",
        "title": title,
        "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
        "collapsed": False,
        "panels": [],
    }


def _source_variable() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _variable(label: str) -> dict[str, Any]:
    query = f"label_values(fastserve_prompt_tokens_total, {label})"
    return {
        "name": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
