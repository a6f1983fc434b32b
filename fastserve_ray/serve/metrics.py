"""The server's metrics in Prometheus' text format: what the ingress counts, and what replicas say of themselves.

On the port of the API, not through ``ray.util.metrics``: Ray exposes those on a port of every node, chosen at random,
up to ten seconds old, with every other metric of the cluster. One ingress process answers for an application, so its
page is whole, and its gauges are of the moment. Ray's and Serve's own metrics stay where Ray has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_PLAIN_1_0_0, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from fastserve_ray.serve.metric_table import BY_CLIENT, BY_NAME, METRICS, PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastserve_ray.serve.calls import ReplicaStatus
    from fastserve_ray.serve.observe import Observed

CONTENT_TYPE = CONTENT_TYPE_PLAIN_1_0_0


class ServerMetrics:
    """Of one ingress process, from zero for each of ``models``."""

    def __init__(self, models: Iterable[str] = ()) -> None:
        self._registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._gauges: dict[str, Gauge] = {}
        self._keys: dict[str, set[str]] = {}
        """By model, those that have waited: their gauge goes back to 0."""
        for metric in METRICS:
            name = PREFIX + metric.name
            if metric.status is not None:
                continue
            if metric.kind == "counter":
                self._counters[metric.name] = Counter(name, metric.text, metric.labels, registry=self._registry)
            elif metric.kind == "gauge":
                self._gauges[metric.name] = Gauge(name, metric.text, metric.labels, registry=self._registry)
            else:
                self._histograms[metric.name] = Histogram(
                    name, metric.text, metric.labels, buckets=metric.buckets, registry=self._registry
                )
        self._begin(models)

    def count(self, name: str, *labels: str, amount: float = 1) -> None:
        self._counters[name].labels(*labels).inc(amount)

    def observe(self, name: str, value: float, *labels: str) -> None:
        self._histograms[name].labels(*labels).observe(value)

    def request_ended(self, seen: Observed) -> None:
        """A request for a model has ended, whether well or not."""
        client = (seen.model, seen.key)
        for reason in seen.finished_reasons:
            self.count("request_success", *client, reason)
        if seen.code is not None:
            self.count("request_failure", *client, seen.code)
        if seen.num_prompt_tokens:
            self.count("prompt_tokens", *client, amount=seen.num_prompt_tokens)
            self.observe("request_prompt_tokens", seen.num_prompt_tokens, *client)
        if seen.num_generation_tokens:
            self.count("generation_tokens", *client, amount=seen.num_generation_tokens)
            self.observe("request_generation_tokens", seen.num_generation_tokens, *client)
        for name, seconds in seen.seconds().items():
            self.observe(name, seconds, *client)

    def queued(self, model: str, by_key: dict[str, int]) -> None:
        """How many of each key wait at a model's gate."""
        keys = self._keys.setdefault(model, {""})
        keys |= set(by_key)
        for key in keys:
            self._gauges["num_requests_queued"].labels(model, key).set(by_key.get(key, 0))

    def page(self, replicas: Iterable[tuple[str, ReplicaStatus]]) -> bytes:
        """The whole page; ``replicas`` with the names of their models."""
        registry = CollectorRegistry()
        registry.register(_Replicas(list(replicas)))
        return generate_latest(self._registry) + generate_latest(registry)

    def _begin(self, models: Iterable[str]) -> None:
        for model in models:
            for kind in (self._counters, self._histograms, self._gauges):
                for name, metric in kind.items():
                    if BY_NAME[name].labels == BY_CLIENT:
                        metric.labels(model, "")


class _Replicas(Collector):
    """What replicas said when they were asked for this page."""

    def __init__(self, statuses: list[tuple[str, ReplicaStatus]]) -> None:
        self._statuses = statuses

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for metric in METRICS:
            if metric.status is not None:
                kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = kind(PREFIX + metric.name, metric.text, labels=metric.labels)
                for model, status in self._statuses:
                    value = getattr(status, metric.status)
                    for label, number in value.items() if isinstance(value, dict) else [(None, value)]:
                        family.add_metric([model, status.replica, *([] if label is None else [label])], number)
                yield family
