"""API keys, quotas, limits and deadlines of a running application, as OpenAI's client meets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.access import AuthSpec, LimitsSpec
from fastserve_ray.spec.keys import hash_of
from fastserve_ray.spec.serve import ServeSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

KEYS = f"""
keys:
  - {{name: alice, sha256: {hash_of("alice's")}, admin: true}}
  - {{name: bob, sha256: {hash_of("bob's")}, requests_per_minute: 2, group: guests}}
  - {{name: carol, sha256: {hash_of("carol's")}, tokens_per_minute: 100}}
  - {{name: dave, sha256: {hash_of("dave's")}, models: []}}
"""
LONG: dict[str, Any] = {"model": "tiny", "prompt": "the cat", "max_tokens": 2000, "temperature": 0}


@pytest.fixture(scope="module")
def guarded(ray_cluster: str, generator_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    file.write_text(KEYS)
    limits = LimitsSpec(max_body_bytes=10_000, max_prompt_tokens=50, max_choices=3)
    spec = ServeSpec(port=0, auth=AuthSpec(keys_file=str(file)), limits=limits)
    served = deploy(generator_folder, "text-generation", "tiny", spec)
    yield served
    served.shutdown()


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
    after = usage("alice's")["alice"]
    assert after["requests"] - before["requests"] == 2
    assert after["completion_tokens"] - before["completion_tokens"] == 12
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
