"""API keys, quotas, limits and deadlines of a running application, as OpenAI's client meets them."""

from __future__ import annotations

import asyncio
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from fastserve_ray.serve.dashboard import dashboard
from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.serve.quota.deployment import load_state
from fastserve_ray.spec.access import AuthSpec, LimitsSpec
from fastserve_ray.spec.keys import hash_of
from fastserve_ray.spec.serve import ServeSpec
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0

KEYS = f"""
keys:
  - {{name: alice, sha256: {hash_of("alice's")}, admin: true}}
  - {{name: bob, sha256: {hash_of("bob's")}, requests_per_minute: 2}}
  - {{name: carol, sha256: {hash_of("carol's")}, tokens_per_minute: 100}}
  - {{name: dave, sha256: {hash_of("dave's")}, models: []}}
  - {{name: erin, sha256: {hash_of("erin's")}, max_concurrent_requests: 1}}
  - {{name: gina, sha256: {hash_of("gina's")}, group: guests}}
  - {{name: flood, sha256: {hash_of("flood's")}}}
"""
LONG: dict[str, Any] = {"model": "tiny", "prompt": "the cat", "max_tokens": 2000, "temperature": 0}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    file.write_text(KEYS)
    return file


@pytest.fixture(scope="module")
def guarded(ray_cluster: str, generator_folder: Path, keys_file: Path) -> Iterator[ServedApp]:
    limits = LimitsSpec(max_body_bytes=10_000, max_prompt_tokens=50, max_choices=3)
    auth = AuthSpec(keys_file=str(keys_file))
    spec = ServeSpec(
        port=0, auth=auth, limits=limits, max_ongoing_requests=8, max_queued_requests=8, request_log="facts"
    )
    served = deploy(generator_folder, "text-generation", "tiny", spec)
    yield served
    served.shutdown()


def gauges(served: ServedApp) -> dict[str, float]:
    """Of one moment, added up over replicas."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{served.url}/metrics").text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def client(served: ServedApp, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


def complete(served: ServedApp, key: str, **fields: Any) -> Any:
    body = {"model": "tiny", "prompt": "the cat", "max_tokens": 4, "temperature": 0, **fields}
    return client(served, key).completions.create(**body)


def test_keys_and_models(guarded: ServedApp) -> None:
    with pytest.raises(openai.AuthenticationError) as unknown:
        complete(guarded, "mallory's")
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError) as denied:
        complete(guarded, "dave's")
    assert denied.value.code == "model_not_allowed"
    assert complete(guarded, "alice's").usage.completion_tokens == 4
    assert client(guarded, "alice's").models.list().data[0].id == "tiny"
    assert httpx.get(f"{guarded.url}/ready").status_code == 200


def test_requests_and_tokens_per_minute(guarded: ServedApp) -> None:
    raw = client(guarded, "bob's").completions.with_raw_response.create(model="tiny", prompt="the cat", max_tokens=4)
    assert raw.headers["x-ratelimit-remaining-requests"] == "1"
    list(complete(guarded, "bob's", stream=True))
    with pytest.raises(openai.RateLimitError) as requests:
        complete(guarded, "bob's")
    assert (requests.value.type, requests.value.code) == ("requests", "rate_limit_exceeded")
    assert 1 <= int(requests.value.response.headers["retry-after"]) <= 30
    complete(guarded, "carol's", max_tokens=90)
    with pytest.raises(openai.RateLimitError) as tokens:
        complete(guarded, "carol's", max_tokens=90)
    assert tokens.value.type == "tokens"
    assert complete(guarded, "alice's").usage.completion_tokens == 4


def test_usage(guarded: ServedApp) -> None:
    def usage(key: str) -> dict[str, dict[str, Any]]:
        headers = {"authorization": f"Bearer {key}"}
        data = httpx.get(f"{guarded.url}/v1/usage", headers=headers).json()["data"]
        return {row["key"]: row for row in data}

    before = usage("alice's")["alice"]
    answer = complete(guarded, "alice's", max_tokens=7)
    list(complete(guarded, "alice's", max_tokens=5, stream=True))
    spent = before["completion_tokens"] + 12  # settled a moment after the answer
    wait_for(lambda: usage("alice's")["alice"]["completion_tokens"] == spent, DEADLINE_S, "12 tokens are alice's")
    after = usage("alice's")["alice"]
    assert after["requests"] - before["requests"] == 2
    assert after["prompt_tokens"] - before["prompt_tokens"] == 2 * answer.usage.prompt_tokens
    assert {"bob", "carol"} <= set(usage("alice's"))
    assert set(usage("bob's")) == {"bob"}


def test_limits_of_a_request(guarded: ServedApp) -> None:
    with pytest.raises(openai.APIStatusError) as large:
        complete(guarded, "alice's", prompt="x" * 20_000)
    assert large.value.status_code == 413
    with pytest.raises(openai.BadRequestError) as long:
        complete(guarded, "alice's", prompt=[5] * 51)
    assert (long.value.code, long.value.param) == ("prompt_too_long", "prompt")
    with pytest.raises(openai.BadRequestError) as many:
        complete(guarded, "alice's", n=4)
    assert many.value.param == "n"


def test_a_request_ends_at_its_own_deadline(guarded: ServedApp) -> None:
    headers = {"x-request-timeout-s": "0.2"}
    with pytest.raises(openai.InternalServerError) as late:
        complete(guarded, "alice's", extra_headers=headers, max_tokens=2000, n=3)
    assert (late.value.status_code, late.value.code) == (504, "timeout")
    wait_for(
        lambda: gauges(guarded)["fastserve_num_requests_running"] == 0,
        DEADLINE_S,
        "nothing runs",
    )


def test_a_client_that_leaves_frees_its_place_its_slot_and_its_blocks(guarded: ServedApp) -> None:
    """The key may have one request in flight. Slot and blocks are free together: no page shows one without the other
    after the step in which the request went."""
    body = {**LONG, "stream": True}
    headers = {"authorization": "Bearer erin's"}
    with httpx.stream("POST", f"{guarded.url}/v1/completions", json=body, headers=headers) as response:
        parts = response.iter_bytes()  # kept: httpx closes the connection with the iterator
        next(parts)
        assert gauges(guarded)["fastserve_num_requests_running"] == 1
        with pytest.raises(openai.RateLimitError) as second:
            complete(guarded, "erin's")
        assert second.value.code == "too_many_concurrent_requests"
    pages: list[dict[str, float]] = []

    def is_gone() -> bool:
        pages.append(gauges(guarded))
        return pages[-1]["fastserve_num_requests_running"] == 0

    wait_for(is_gone, DEADLINE_S, "it has ended")
    assert pages[-1]["fastserve_kv_tokens_used"] == 0
    assert complete(guarded, "erin's").usage.completion_tokens == 4


def test_every_panel_of_the_dashboard_shows_a_metric_of_a_running_server(guarded: ServedApp) -> None:
    complete(guarded, "gina's")
    with pytest.raises(openai.PermissionDeniedError):
        complete(guarded, "dave's")
    page = httpx.get(f"{guarded.url}/metrics").text
    samples = {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            names = set(re.findall(r"fastserve_\w+", target["expr"]))
            assert names, target["expr"]
            assert names <= samples, panel["title"]
    assert 'key="guests"' in page
    assert "gina" not in page


def test_metrics_are_by_key_and_add_up(guarded: ServedApp) -> None:
    """The parts of a request's time are no more than the whole."""

    def of_alice() -> dict[str, float]:
        families = text_string_to_metric_families(httpx.get(f"{guarded.url}/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.labels.get("key") == "alice"]
        return {s.name.removeprefix("fastserve_"): s.value for s in samples if s.name.endswith(("_sum", "_total"))}

    before = of_alice()
    list(complete(guarded, "alice's", max_tokens=200, stream=True))
    written = before.get("generation_tokens_total", 0.0) + 200  # counted a moment after the answer
    wait_for(lambda: of_alice().get("generation_tokens_total") == written, DEADLINE_S, "200 tokens are alice's")
    after = of_alice()
    took = {name: after[name] - before.get(name, 0.0) for name in after}
    parts = [f"request_{part}_time_seconds_sum" for part in ("queue", "route", "prefill", "decode")]
    assert all(took[part] >= 0 for part in parts)
    assert sum(took[part] for part in parts) <= took["e2e_request_latency_seconds_sum"] + 0.01
    assert took["time_per_output_token_seconds_sum"] == pytest.approx(took["request_decode_time_seconds_sum"] / 199)


def test_requests_are_logged_without_their_texts(guarded: ServedApp) -> None:
    complete(guarded, "alice's", prompt="the dog barked", extra_headers={"x-request-id": "logged-1"})
    folder = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"

    def lines() -> list[str]:
        texts = [file.read_text() for file in folder.glob("*ingress*")]
        return [line for text in texts for line in text.splitlines() if '"request_id": "logged-1"' in line]

    wait_for(lambda: bool(lines()), DEADLINE_S, "the log has its line")
    (line,) = lines()
    assert '"key": "alice"' in line
    assert '"generation_tokens": 4' in line
    assert "barked" not in line


async def test_a_key_that_floods_is_turned_away_and_another_is_served(guarded: ServedApp) -> None:
    """Of 30 long requests of one key 6 run, 8 wait and 16 are turned away, whatever is asked next by another key is
    let in at once, and answered while the flood goes on."""
    async with httpx.AsyncClient(base_url=guarded.url, timeout=120, limits=httpx.Limits(max_connections=100)) as http:

        async def ask(key: str, **fields: Any) -> httpx.Response:
            headers = {"authorization": f"Bearer {key}'s"}
            return await http.post("/v1/completions", json={**LONG, **fields}, headers=headers)

        flood = [asyncio.create_task(ask("flood")) for _ in range(30)]
        async with asyncio.timeout(60):
            for ended in itertools.islice(asyncio.as_completed(flood), 16):
                await ended
        light = await ask("alice", max_tokens=4)
        unfinished = [task for task in flood if not task.done()]
        refused = [task.result() for task in flood if task.done() and task.result().status_code != 200]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
    assert light.status_code == 200
    assert len(unfinished) >= 8, "those that wait, at least, were overtaken"
    assert len(refused) == 16
    for response in refused:
        assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
        assert 1 <= int(response.headers["retry-after"]) <= 60
    wait_for(
        lambda: gauges(guarded)["fastserve_num_requests_running"] == 0,
        DEADLINE_S,
        "nothing runs",
    )


def status_of(served: ServedApp, key: str) -> int:
    return httpx.get(f"{served.url}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


def test_a_changed_file_of_keys_takes_effect_while_the_server_runs(guarded: ServedApp, keys_file: Path) -> None:
    keys_file.write_text(KEYS + f"  - {{name: henry, sha256: {hash_of('henrys')}, tokens_per_minute: 5}}\n")
    wait_for(lambda: status_of(guarded, "henrys") == 200, DEADLINE_S, "a new key is known")
    assert status_of(guarded, "alice's") == 200
    with pytest.raises(openai.RateLimitError) as tokens:
        complete(guarded, "henrys", max_tokens=90)
    assert tokens.value.type == "tokens", "its limits came with it"
    keys_file.write_text("keys: [this is wrong")
    folder = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"
    wait_for(
        lambda: any("the keys stay as they were" in file.read_text() for file in folder.glob("*ingress*")),
        DEADLINE_S,
        "the log says that the file is wrong",
    )
    assert status_of(guarded, "henrys") == 200
    keys_file.write_text(KEYS)
    wait_for(lambda: status_of(guarded, "henrys") == 401, DEADLINE_S, "a key that was taken out is not known any more")
    assert complete(guarded, "alice's").usage.completion_tokens == 4


def test_quotas_and_usage_outlive_their_ledger(guarded: ServedApp) -> None:
    def prompt_tokens() -> int:
        answer = httpx.get(f"{guarded.url}/v1/usage", headers={"authorization": "Bearer alice's"})
        return int(sum(row["prompt_tokens"] for row in answer.json()["data"] if row["key"] == "alice"))

    def kept() -> int:
        accounts = (load_state("tiny") or {"accounts": {}})["accounts"]
        return sum(used["num_prompt_tokens"] for used in accounts.get("alice", {"used": []})["used"])

    def ledgers() -> list[str]:
        return [
            actor["name"]
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if actor["name"].startswith("SERVE_REPLICA::tiny#quota#")
        ]

    complete(guarded, "alice's")
    wait_for(lambda: prompt_tokens() > 0, DEADLINE_S, "the request is settled")
    before = prompt_tokens()
    wait_for(lambda: kept() == before, DEADLINE_S, "it is kept")
    (old,) = ledgers()
    ray.kill(ray.get_actor(old, namespace="serve"))
    wait_for(lambda: bool(ledgers()) and old not in ledgers(), DEADLINE_S, "Serve has replaced it")
    wait_for(lambda: prompt_tokens() == before, DEADLINE_S, "the new one goes on where the old one was")
    complete(guarded, "alice's")
    wait_for(lambda: prompt_tokens() > before, DEADLINE_S, "and counts on")
