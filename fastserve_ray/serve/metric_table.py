"""The one table of a server's metrics: the exposition, the dashboard and the documentation are made from it.

Names and meanings are vLLM's wherever it has the same thing (``vllm:num_requests_running`` is
``fastserve_num_requests_running``), so that dashboards and alerts carry over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "fastserve_"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
BY_CLIENT = ("model", "key")
"""``key`` is the group of an API key, or its name; empty where the server asks for none."""
BY_REPLICA = ("model", "replica")


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    """Without the prefix, and without the ``_total`` of counters."""
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...]
    group: str
    """Its row in the dashboard."""
    unit: str = "short"
    """Grafana's."""
    buckets: tuple[float, ...] = SECONDS
    """Of a histogram."""
    status: str | None = None
    """The field of a replica's status that it shows, a number, or numbers by a third label; None: the process that
    answers HTTP counts it."""

    @property
    def full_name(self) -> str:
        """As samples have it, but for the ending of a histogram's."""
        return f"{PREFIX}{self.name}" + ("_total" if self.kind == "counter" else "")


def _times(name: str, text: str) -> Metric:
    return Metric(name, "histogram", text, BY_CLIENT, "Latency", "s")


def _of_replica(name: str, kind: Literal["counter", "gauge"], text: str, status: str, unit: str = "short") -> Metric:
    return Metric(name, kind, text, BY_REPLICA, "Engines", unit, status=status)


METRICS = (
    Metric("requests", "counter", "Answered requests", ("route", "status", "key"), "Requests", "reqps"),
    Metric(
        "request_success",
        "counter",
        "Completions that came to their end, by why they ended",
        (*BY_CLIENT, "finished_reason"),
        "Requests",
        "reqps",
    ),
    Metric(
        "request_failure",
        "counter",
        "Requests for a model that were refused or failed, by the error's code; client_left: nobody waited any more",
        (*BY_CLIENT, "code"),
        "Requests",
        "reqps",
    ),
    Metric("num_requests_queued", "gauge", "Requests at the fair gate in front of the replicas", BY_CLIENT, "Requests"),
    Metric("prompt_tokens", "counter", "Prompt tokens of requests that were answered", BY_CLIENT, "Tokens"),
    Metric("generation_tokens", "counter", "Generated tokens that were sent", BY_CLIENT, "Tokens"),
    Metric("request_prompt_tokens", "histogram", "Prompt tokens of a request", BY_CLIENT, "Tokens", buckets=TOKENS),
    Metric(
        "request_generation_tokens",
        "histogram",
        "Generated tokens of a request, over all its choices",
        BY_CLIENT,
        "Tokens",
        buckets=TOKENS,
    ),
    Metric(
        "request_duration_seconds",
        "histogram",
        "From a request's arrival to the end of its answer, by route",
        ("route",),
        "Latency",
        "s",
    ),
    _times("e2e_request_latency_seconds", "From a request's arrival to its last token"),
    _times("time_to_first_token_seconds", "From a request's arrival to its first token"),
    _times("time_per_output_token_seconds", "From a choice's first token to its last, for each token but the first"),
    _times("request_queue_time_seconds", "Waiting: at the gate, and in the engine until the first step"),
    _times(
        "request_route_time_seconds",
        "Between the ingress and the engine: Serve's queue and router, transfer, tokenizing",
    ),
    _times("request_prefill_time_seconds", "In the engine from the first step to the first token"),
    _times("request_decode_time_seconds", "In the engine from the first token to the last"),
    _of_replica("num_requests_running", "gauge", "Completions that the engine has begun", "num_requests_running"),
    _of_replica("num_requests_waiting", "gauge", "Completions that wait in the engine", "num_requests_waiting"),
    _of_replica("num_requests_swapped", "gauge", "Begun completions moved to the host", "num_requests_swapped"),
    _of_replica("kv_cache_usage_perc", "gauge", "Part of the KV cache in use, 0 to 1", "kv_usage", "percentunit"),
    _of_replica("kv_tokens_used", "gauge", "Tokens held in the KV cache", "kv_tokens_used"),
    _of_replica("kv_tokens_capacity", "gauge", "Tokens that the KV cache can hold", "kv_tokens_capacity"),
    _of_replica("prefix_cache_queries", "counter", "Prompt tokens looked up in the cache", "prefix_query_tokens"),
    _of_replica("prefix_cache_hits", "counter", "Of them, those that the cache had", "prefix_hit_tokens"),
    _of_replica("num_preemptions", "counter", "Times that a completion that ran had to wait", "num_preemptions"),
    Metric(
        "replica_start_seconds",
        "gauge",
        "Time of each phase of a replica's start, up to its first token",
        (*BY_REPLICA, "phase"),
        "Engines",
        "s",
        status="start_seconds",
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}
