"""A served model as clients see it: OpenAI's own Python client against a running Ray Serve application."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastserve_ray.errors import PlacementError, ServeError
from fastserve_ray.serve.client import post
from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.serve import AutoscalingSpec, ServeSpec
from fastserve_ray.spec.train import WorkerResources
from tests.integration.served import CONTEXT, generate, save_classifier
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

PROMPT = "the cat sat on the"
MESSAGES: Any = [{"role": "user", "content": "the dog barked"}]
SENTENCES = ["the cat sat", "the dog barked at the cat and the mat " * 3, "köln", "", "on the mat"]


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    save_classifier(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(app: ServedApp, classifier_folder: Path) -> Iterator[ServedApp]:
    """A second application of the same Serve, under a path of its own."""
    served = deploy(classifier_folder, "text-classification", "judge", ServeSpec(port=0, route_prefix="/judge"))
    yield served
    served.shutdown()


def complete(client: openai.OpenAI, **fields: Any) -> Any:
    return client.completions.create(
        **{"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "temperature": 0, **fields}
    )


def metrics(app: ServedApp) -> dict[str, float]:
    """Samples of the page, added up over their labels."""
    text = httpx.get(f"{app.url}/metrics").text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_greedy_completion_is_transformers_generate_token_for_token(
    client: openai.OpenAI, generator_folder: Path
) -> None:
    expected, num_prompt_tokens = generate(generator_folder, PROMPT, 40)
    answer = complete(client, max_tokens=40)
    assert answer.choices[0].text == expected
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (num_prompt_tokens, 40)
    assert answer.usage.total_tokens == num_prompt_tokens + 40


def test_prompts_as_tokens_and_in_lists(client: openai.OpenAI, generator_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(generator_folder)
    prompts = ["the cat", "the dog"]
    single = [complete(client, prompt=prompt).choices[0].text for prompt in prompts]
    tokens = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    assert [choice.text for choice in complete(client, prompt=prompts).choices] == single
    assert [choice.text for choice in complete(client, prompt=tokens).choices] == single
    assert complete(client, prompt=tokens[0]).choices[0].text == single[0]
    assert [choice.index for choice in complete(client, prompt=prompts, n=2).choices] == [0, 1, 2, 3]


def test_chat_goes_through_the_models_template(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model="tiny", messages=MESSAGES, max_completion_tokens=10, temperature=0)
    same = complete(client, prompt="user: the dog barked\nassistant:", max_tokens=10)
    assert chat.choices[0].message.role == "assistant"
    assert chat.choices[0].message.content == same.choices[0].text
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == same.usage.prompt_tokens


def test_streams_join_to_the_whole_answer(client: openai.OpenAI) -> None:
    chunks = list(complete(client, max_tokens=30, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == complete(client, max_tokens=30).choices[0].text
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"


def test_chat_stream_to_the_letter(client: openai.OpenAI) -> None:
    fields: Any = {"model": "tiny", "messages": MESSAGES, "max_tokens": 20, "temperature": 0}
    whole = client.chat.completions.create(**fields)
    stream = client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert len({chunk.id for chunk in [*chunks, last]}) == 1
    assert last.choices == []
    assert last.usage == whole.usage


def test_a_raw_stream_ends_with_done(app: ServedApp) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 5, "stream": True}
    response = httpx.post(f"{app.url}/v1/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["object"] == "text_completion" for event in events[:-1])


def test_stop_ends_the_text_before_the_stop_string(client: openai.OpenAI) -> None:
    whole = complete(client, max_tokens=30).choices[0].text
    stop = whole[8:11]
    expected = whole[: whole.index(stop)]
    answer = complete(client, max_tokens=30, stop=[stop, "never in there"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (expected, "stop")
    assert answer.usage.completion_tokens < 30
    chunks = list(complete(client, max_tokens=30, stop=stop, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_seed_makes_sampling_reproducible(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        return str(complete(client, temperature=1.5, seed=seed, max_tokens=20).choices[0].text)

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    several = [complete(client, temperature=1.5, seed=1, max_tokens=20, n=2).choices for _ in range(2)]
    assert [choice.text for choice in several[0]] == [choice.text for choice in several[1]]
    assert several[0][0].text == sample(1) != several[0][1].text


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_errors_are_what_openais_client_expects(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        complete(client, model="other")
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unknown:
        complete(client, extra_body={"temperatura": 1})
    assert unknown.value.param == "temperatura"
    with pytest.raises(openai.BadRequestError) as too_long:
        complete(client, max_tokens=CONTEXT)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as streamed:
        complete(client, prompt=[1] * CONTEXT, stream=True)
    assert streamed.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="not in the vocabulary"):
        complete(client, prompt=[1, 10**6])
    with pytest.raises(openai.BadRequestError) as wrong_task:
        client.post("/classify", body={"model": "tiny", "input": "x"}, cast_to=object)
    assert wrong_task.value.code == "wrong_task"


def test_headers(app: ServedApp) -> None:
    made = httpx.get(f"{app.url}/health")
    assert made.headers.get_list("x-request-id") != [""]
    assert len(made.headers.get_list("x-request-id")) == 1
    given = httpx.get(f"{app.url}/health", headers={"x-request-id": "mine"})
    assert given.headers.get_list("x-request-id") == ["mine"]
    assert int(given.headers["openai-processing-ms"]) >= 0


def test_many_requests_at_once_answer_as_they_do_alone(client: openai.OpenAI) -> None:
    requests: list[dict[str, Any]] = [
        {"prompt": PROMPT[: 3 + number], "max_tokens": 5 + 2 * number, "temperature": number % 2, "seed": number}
        for number in range(16)
    ]
    alone = [complete(client, **fields).choices[0].text for fields in requests]

    def streamed(fields: dict[str, Any]) -> str:
        return "".join(chunk.choices[0].text for chunk in complete(client, **fields, stream=True))

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda fields: complete(client, **fields).choices[0].text, requests))
        streams = list(pool.map(streamed, requests))
    assert together == alone
    assert streams == alone


LONG: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": CONTEXT - 32, "n": 16, "temperature": 0}
"""Runs for many seconds, unless it is cancelled."""


def test_a_client_that_leaves_a_stream_frees_the_engine(app: ServedApp) -> None:
    before = metrics(app)["fastserve_generation_tokens_total"]
    with httpx.stream("POST", f"{app.url}/v1/completions", json={**LONG, "stream": True}) as response:
        parts = response.iter_bytes()  # kept: httpx closes the connection with the iterator
        next(parts)
        assert metrics(app)["fastserve_num_requests_running"] == 16
    wait_for(lambda: metrics(app)["fastserve_num_requests_running"] == 0, 2, "nothing runs")
    assert metrics(app)["fastserve_kv_tokens_used"] == 0
    wait_for(lambda: metrics(app)["fastserve_generation_tokens_total"] > before, 2, "its tokens are counted")
    assert metrics(app)["fastserve_generation_tokens_total"] - before < 16 * (CONTEXT - 32) / 2


def test_a_client_that_leaves_a_whole_answer_frees_the_engine(app: ServedApp) -> None:
    with ThreadPoolExecutor(1) as pool:
        left = pool.submit(httpx.post, f"{app.url}/v1/completions", json=LONG, timeout=2.0)
        wait_for(lambda: metrics(app)["fastserve_num_requests_running"] == 16, 2, "all choices run")
        with pytest.raises(httpx.ReadTimeout):
            left.result()
    wait_for(lambda: metrics(app)["fastserve_num_requests_running"] == 0, 2, "nothing runs")
    assert metrics(app)["fastserve_kv_tokens_used"] == 0


def test_the_metrics_page(app: ServedApp, client: openai.OpenAI) -> None:
    before = metrics(app)
    answer = complete(client)
    after = metrics(app)
    assert after["fastserve_generation_tokens_total"] - before["fastserve_generation_tokens_total"] == 12
    prompt_tokens = after["fastserve_prompt_tokens_total"] - before["fastserve_prompt_tokens_total"]
    assert prompt_tokens == answer.usage.prompt_tokens
    for name in ("fastserve_time_to_first_token_seconds_count", "fastserve_request_duration_seconds_count"):
        assert after[name] > before[name]
    assert after["fastserve_kv_tokens_capacity"] >= CONTEXT


def test_operations(app: ServedApp) -> None:
    for path in ("/health", "/ready", "/version", "/openapi.json"):
        assert httpx.get(app.url + path).status_code == 200
    sample = app.sample()
    assert sample.text(post(app.url + sample.path, sample.body))
    assert app.url in sample.curl(app.url)


def test_classification_equals_the_engines_offline_predictions(classifier: ServedApp, classifier_folder: Path) -> None:
    from fastserve_ray.engines.table import open_engine

    engine: Any = open_engine(classifier_folder, "text-classification")
    expected = engine.predict(SENTENCES)
    answer = post(f"{classifier.url}/v1/classify", {"model": "judge", "input": [*SENTENCES]})
    assert [item["label"] for item in answer["data"]] == [prediction.label for prediction in expected]
    for item, prediction in zip(answer["data"], expected, strict=True):
        assert list(item["probs"]) == list(engine.labels)
        assert list(item["probs"].values()) == pytest.approx(prediction.scores, abs=1e-6)
        assert sum(item["probs"].values()) == pytest.approx(1)
    assert answer["usage"]["prompt_tokens"] == sum(map(engine.count_tokens, SENTENCES))
    single = post(f"{classifier.url}/v1/classify", {"model": "judge", "input": SENTENCES[0]})
    assert single["data"][0]["label"] == expected[0].label


def test_a_classifier_does_not_complete(classifier: ServedApp) -> None:
    with pytest.raises(ServeError, match="/v1/classify"):
        post(f"{classifier.url}/v1/completions", {"model": "judge", "prompt": "x"})


def test_overload_and_time_limits(app: ServedApp, generator_folder: Path) -> None:
    """One request at a time, one in the queue, two seconds for each; autoscaled from zero."""
    spec = ServeSpec(
        port=0,
        route_prefix="/tight",
        max_ongoing_requests=1,
        max_queued_requests=1,
        request_timeout_s=2.0,
        autoscaling_config=AutoscalingSpec(min_replicas=1, max_replicas=2, upscale_delay_s=60.0),
    )
    tight = deploy(generator_folder, "text-generation", "tight", spec)
    try:
        body: Any = {"model": "tight", "prompt": PROMPT, "max_tokens": CONTEXT - 32, "n": 8, "temperature": 0}
        with ThreadPoolExecutor(6) as pool:
            answers = list(
                pool.map(lambda _: httpx.post(f"{tight.url}/v1/completions", json=body, timeout=30), range(6))
            )
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(503) >= 3, statuses
        assert 504 in statuses, statuses
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "overloaded"
        wait_for(lambda: metrics(tight)["fastserve_num_requests_running"] == 0, 5, "nothing runs")
    finally:
        tight.shutdown()


def test_a_replica_that_cannot_start_says_why(app: ServedApp, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(ServeError) as caught:
        deploy(tmp_path, "text-generation", "broken", ServeSpec(port=0, route_prefix="/broken"))
    assert "cannot load" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert httpx.get(f"{app.url}/ready").status_code == 200


def test_what_cannot_be_placed_is_refused_at_once(app: ServedApp, generator_folder: Path) -> None:
    spec = ServeSpec(port=0, route_prefix="/huge", resources_per_replica=WorkerResources(CPU=1000))
    with pytest.raises(PlacementError) as caught:
        deploy(generator_folder, "text-generation", "huge", spec)
    assert caught.value.key == "serve.resources_per_replica"


def test_another_port_of_a_serve_that_runs_is_refused(app: ServedApp, generator_folder: Path) -> None:
    with pytest.raises(ServeError) as caught:
        deploy(generator_folder, "text-generation", "again", ServeSpec(port=1))
    assert caught.value.key == "serve.port"


def test_a_path_that_another_application_has_is_refused(app: ServedApp, generator_folder: Path) -> None:
    with pytest.raises(ServeError, match="route_prefix") as caught:
        deploy(generator_folder, "text-generation", "second", ServeSpec(port=0))
    assert "tiny" in str(caught.value)
    assert httpx.get(f"{app.url}/ready").status_code == 200


def test_stories260k_as_it_is(app: ServedApp, shared_folder: Path) -> None:
    folder = shared_folder / "models" / "stories260K"
    prompt = "Once upon a time"
    served = deploy(folder, "text-generation", "stories", ServeSpec(port=0, route_prefix="/stories"))
    try:
        expected, num_prompt_tokens = generate(folder, prompt, 100)
        answer = post(
            f"{served.url}/v1/completions", {"model": "stories", "prompt": prompt, "max_tokens": 100, "temperature": 0}
        )
        assert answer["choices"][0]["text"] == expected
        assert answer["usage"]["prompt_tokens"] == num_prompt_tokens
        body = {"model": "stories", "messages": MESSAGES}
        with pytest.raises(ServeError, match="/v1/completions"):
            post(f"{served.url}/v1/chat/completions", body)
    finally:
        served.shutdown()


def test_the_commands_serve_and_predict(app: ServedApp, ray_cluster: str, generator_folder: Path) -> None:
    """In the Ray of the tests; Ctrl-C ends it with exit code 0 and leaves nothing of it behind."""
    fastserve = [sys.executable, "-m", "fastserve_ray.cli.main"]
    flags = [
        "--port",
        "0",
        "--name",
        "by-hand",
        "--set",
        "serve.route_prefix=/by-hand",
        "--set",
        "cluster.address=auto",
    ]
    command = [*fastserve, "serve", str(generator_folder), *flags, "--json"]
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            served = json.loads("".join(itertools.takewhile(lambda line: line != "}\n", lines)) + "}")
            asked = post(f"{served['url']}/v1/completions", {"model": "by-hand", "prompt": PROMPT, "temperature": 0})
            rows = predict(fastserve, "--url", served["url"], "--max-tokens", "16")
            assert rows == [{"input": PROMPT, "text": asked["choices"][0]["text"], "finish_reason": "length"}]
            assert predict(fastserve, str(generator_folder), "--max-tokens", "16") == rows
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert httpx.get(f"{served['url']}/health").status_code == 404
    assert httpx.get(f"{app.url}/ready").status_code == 200


def predict(fastserve: list[str], *arguments: str) -> list[dict[str, Any]]:
    command = [*fastserve, "predict", *arguments, "--text", PROMPT, "--json"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]
