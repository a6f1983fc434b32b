"""The server's metrics in Prometheus' text format: what the ingress counts, and the gauges of the replicas.

Ray Serve's own metrics stay where Ray has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_PLAIN_1_0_0, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastserve_ray.serve.calls import Frame, ReplicaStatus

CONTENT_TYPE = CONTENT_TYPE_PLAIN_1_0_0
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Seconds."""
GAUGES = {
    "num_requests_running": "Requests that the engine works on",
    "num_requests_waiting": "Requests that wait in the engine",
    "kv_tokens_used": "Tokens held in the KV cache",
    "kv_tokens_capacity": "Tokens that the KV cache can hold",
}


class ServerMetrics:
    """Counters of one ingress process, from zero for each of ``models``."""

    def __init__(self, models: Iterable[str] = ()) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("fastserve_requests", "Answered requests", ["route", "status"], registry=self._registry)
        self.latency = Histogram(
            "fastserve_request_duration_seconds",
            "Time from a request's arrival to the end of its answer",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self.first_token = Histogram(
            "fastserve_time_to_first_token_seconds",
            "Time to the first token: as the ingress sees it for streams, as the replica sees it for whole answers",
            ["model"],
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self.prompt_tokens = Counter(
            "fastserve_prompt_tokens", "Prompt tokens of answered requests", ["model"], registry=self._registry
        )
        self.completion_tokens = Counter(
            "fastserve_completion_tokens", "Generated tokens that were sent", ["model"], registry=self._registry
        )

        for model in models:
            for metric in (self.first_token, self.prompt_tokens, self.completion_tokens):
                metric.labels(model)

    def count_tokens(self, model: str, frame: Frame | None) -> None:
        """``frame``: the last one of a request, if there was any."""
        if frame is not None:
            self.prompt_tokens.labels(model).inc(frame.num_prompt_tokens)
            self.completion_tokens.labels(model).inc(frame.num_completion_tokens)

    def page(self, replicas: Iterable[tuple[str, ReplicaStatus]]) -> bytes:
        """The whole page; ``replicas`` with the names of their models."""
        gauges = CollectorRegistry()
        by_name = {
            name: Gauge(f"fastserve_{name}", text, ["model", "replica"], registry=gauges)
            for name, text in GAUGES.items()
        }
        for model, status in replicas:
            for name, gauge in by_name.items():
                gauge.labels(model, status.replica).set(getattr(status, name))
        return generate_latest(self._registry) + generate_latest(gauges)
