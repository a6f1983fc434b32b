from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastserve_ray.serve.auth.caller import Caller
from fastserve_ray.serve.calls import Frame, GenerateCall, Piece, ReplicaStatus
from fastserve_ray.serve.dashboard import dashboard, expressions
from fastserve_ray.serve.metric_table import METRICS, PREFIX
from fastserve_ray.serve.metrics import ServerMetrics
from fastserve_ray.serve.observe import Observed
from fastserve_ray.serve.request_log import line_of
from fastserve_ray.spec.keys import ApiKey, hash_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def streamed() -> Observed:
    """Arrives at 0, waits a second at the gate, is sent at 1; the engine lets it wait 0.5 s, reads for 0.25 s, and
    writes 5 tokens in 2 s; the way costs 0.125 s."""
    clock = Clock()
    seen = Observed("m", "k", 0.0, clock)
    seen.gate_s, clock.now = 1.0, 1.0
    seen.sent()
    clock.now = 1.875
    seen.answered(Frame((Piece(0, "a"),), 3, 1, 0.75, 0.5, 0.75))
    clock.now = 3.875
    seen.answered(Frame((Piece(0, "b", "stop"),), 3, 5, None, None, 2.75))
    return seen


def values(metrics: ServerMetrics, statuses: tuple[ReplicaStatus, ...] = ()) -> dict[tuple[str, ...], float]:
    """By name and values of labels, which stand in the order of their names."""
    page = metrics.page([("m", status) for status in statuses]).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_the_parts_of_a_streamed_request() -> None:
    assert streamed().seconds() == pytest.approx(
        {
            "e2e_request_latency_seconds": 3.875,
            "request_queue_time_seconds": 1.5,
            "request_route_time_seconds": 0.125,
            "time_to_first_token_seconds": 1.875,
            "request_prefill_time_seconds": 0.25,
            "request_decode_time_seconds": 2.0,
            "time_per_output_token_seconds": 0.5,
        }
    )


def test_a_whole_answer_has_the_parts_of_a_stream() -> None:
    clock = Clock()
    seen = Observed("m", "k", 0.0, clock)
    seen.gate_s, clock.now = 1.0, 1.0
    seen.sent()
    clock.now = 3.875
    seen.answered(Frame((Piece(0, "ab", "stop"),), 3, 5, 0.75, 0.5, 2.75))
    assert seen.seconds() == pytest.approx(streamed().seconds())


def test_a_request_that_failed_shows_what_there_was() -> None:
    clock = Clock()
    seen = Observed("m", "k", 0.0, clock, code="overloaded")
    assert seen.seconds() == {}
    metrics = ServerMetrics(["m"])
    metrics.request_ended(seen)
    assert values(metrics)["fastserve_request_failure_total", "overloaded", "k", "m"] == 1


def test_requests_are_counted_by_model_and_key() -> None:
    metrics = ServerMetrics(["m"])
    metrics.request_ended(streamed())
    found = values(metrics)
    assert found["fastserve_request_success_total", "stop", "k", "m"] == 1
    assert found["fastserve_prompt_tokens_total", "k", "m"] == 3
    assert found["fastserve_generation_tokens_total", "k", "m"] == 5
    assert found["fastserve_time_to_first_token_seconds_sum", "k", "m"] == 1.875
    assert found["fastserve_generation_tokens_total", "", "m"] == 0


def test_who_waits_no_more_is_at_zero() -> None:
    metrics = ServerMetrics(["m"])
    metrics.queued("m", {"k": 3})
    metrics.queued("m", {"other": 1})
    found = values(metrics)
    assert found["fastserve_num_requests_queued", "k", "m"] == 0
    assert found["fastserve_num_requests_queued", "other", "m"] == 1


def test_the_page_has_every_metric_of_the_table() -> None:
    metrics = ServerMetrics(["m"])
    metrics.count("requests", "/v1/completions", "200", "k")
    metrics.observe("request_duration_seconds", 1.0, "/v1/completions")
    metrics.queued("m", {})
    metrics.request_ended(streamed())
    seen = streamed()
    seen.code = "timeout"
    metrics.request_ended(seen)
    counts = {"num_preemptions": 5, "prefix_query_tokens": 6, "prefix_hit_tokens": 3}
    status = ReplicaStatus("r", 1, 2, 30, 40, **counts, start_seconds={"import": 3.5})  # type: ignore[arg-type]
    found = values(metrics, (status,))
    names = {name for name, *_ in found}
    for metric in METRICS:
        assert metric.full_name + ("_bucket" if metric.kind == "histogram" else "") in names, metric.name
    assert found["fastserve_kv_cache_usage_perc", "m", "r"] == 0.75
    assert found["fastserve_num_preemptions_total", "m", "r"] == 5


def test_names_differ_and_are_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) and not name.endswith("_total") for name in names)
    assert all(metric.name.endswith("_seconds") == (metric.unit == "s") for metric in METRICS if metric.unit == "s")


def test_the_documentation_has_every_metric() -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    for metric in METRICS:
        assert f"| `{metric.full_name}` | {metric.kind} | {', '.join(metric.labels)} | {metric.text} |" in text


def test_the_dashboard_has_a_panel_of_every_metric_and_no_two_on_one_place() -> None:
    board = json.loads(json.dumps(dashboard()))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    for metric in METRICS:
        assert any(metric.full_name in query for query in queries), metric.name
    assert all(PREFIX in query for query in queries)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(query.count("(") == query.count(")") for query in queries)


def test_expressions_are_promql_for_their_kind() -> None:
    by_name = {metric.name: metric for metric in METRICS}
    assert expressions(by_name["num_requests_queued"]) == {
        "{{model}} {{key}}": 'sum by (model, key) (fastserve_num_requests_queued{model=~"$model",key=~"$key"})'
    }
    (first, *_) = expressions(by_name["time_to_first_token_seconds"]).items()
    assert first[0] == "p50 {{model}} {{key}}"
    assert first[1].startswith("histogram_quantile(0.5, sum by (le, model, key) (rate(fastserve_time_to_first_token")


def test_a_line_of_the_log_has_no_text_and_no_key_unless_asked_for() -> None:
    caller = Caller(ApiKey(name="alice", sha256=hash_of("alice's")), "r-1")
    call = GenerateCall("x", ("my secret",))
    line = line_of(caller, call, streamed(), with_texts=False)
    assert "my secret" not in json.dumps(line)
    assert hash_of("alice's") not in json.dumps(line)
    facts = ("r-1", "alice", "m", "generate", "ok", 3, 5)
    names = ("request_id", "key", "model", "call", "outcome", "prompt_tokens", "generation_tokens")
    assert tuple(line[name] for name in names) == facts
    assert line["time_to_first_token"] == 1.875
    assert line_of(caller, call, streamed(), with_texts=True)["prompt"] == ("my secret",)


def test_the_phases_of_a_start_are_on_the_page() -> None:
    status = ReplicaStatus("r1", 0, 0, start_seconds={"import": 3.5, "weights": 0.25})
    page = ServerMetrics(["m"]).page([("m", status)]).decode()
    assert 'fastserve_replica_start_seconds{model="m",phase="weights",replica="r1"} 0.25' in page
