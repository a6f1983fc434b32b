"""Every sampling field through OpenAI's client, a running server and the engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastserve_ray.serve.client import post
from tests.integration.served import CONTEXT

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.serve.deploy import ServedApp

pytestmark = pytest.mark.slow

PROMPT = "the cat sat on the"
MESSAGES: Any = [{"role": "user", "content": "the dog barked"}]


def complete(client: openai.OpenAI, **fields: Any) -> Any:
    return client.completions.create(**{"model": "tiny", "prompt": PROMPT, "max_tokens": 8, **fields})


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, "max_tokens": 8, **fields})


def test_the_first_of_several_choices_is_the_one_without_them(client: openai.OpenAI) -> None:
    alone = complete(client, seed=5).choices[0].text
    several = complete(client, seed=5, n=3, prompt=[PROMPT, "the dog"])
    texts = [choice.text for choice in several.choices]
    assert [choice.index for choice in several.choices] == list(range(6))
    assert texts[0] == alone
    assert len(set(texts[:3])) == 3
    assert several.usage.completion_tokens == 48
    streamed = ["", "", ""]
    for chunk in complete(client, seed=5, n=3, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts[:3]


def test_biases_and_penalties_change_what_comes(client: openai.OpenAI, generator_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(generator_folder)
    token = tokenizer(" cat", add_special_tokens=False)["input_ids"][0]
    greedy = {"temperature": 0, "max_tokens": 6}
    assert complete(client, **greedy, logit_bias={str(token): 100}).choices[0].text == tokenizer.decode([token]) * 6
    banned = complete(client, **greedy, logit_bias={str(token): 100}, frequency_penalty=2, presence_penalty=2)
    assert banned.choices[0].text == tokenizer.decode([token]) * 6  # 100 outweighs them
    repeated = complete(
        client, **greedy, logit_bias={str(token): 1.5}, extra_body={"repetition_penalty": 100.0}, logprobs=0
    )
    tokens = repeated.choices[0].logprobs.tokens
    assert len(set(tokens)) == len(tokens)


def test_log_probabilities_are_the_models_own(client: openai.OpenAI, generator_folder: Path) -> None:
    answer = complete(client, temperature=0, logprobs=3).choices[0]
    tokenizer, model = (
        AutoTokenizer.from_pretrained(generator_folder),
        AutoModelForCausalLM.from_pretrained(generator_folder),
    )
    prompt = tokenizer(PROMPT)["input_ids"]
    with torch.no_grad():
        made = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=8)[0]
        logprobs = model(made[None]).logits[0].log_softmax(-1)
    for place, told in enumerate(answer.logprobs.token_logprobs):
        row = logprobs[len(prompt) + place - 1]
        assert told == pytest.approx(row[made[len(prompt) + place]].item(), abs=1e-4)
        assert max(answer.logprobs.top_logprobs[place].values()) == pytest.approx(row.max().item(), abs=1e-4)
    assert all(token in answer.text or token.startswith("bytes:") for token in answer.logprobs.tokens)
    assert answer.logprobs.text_offset[0] == 0
    assert answer.logprobs.text_offset == sorted(answer.logprobs.text_offset)


def test_log_probabilities_of_a_chat_whole_and_streamed(client: openai.OpenAI) -> None:
    fields = {"temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = chat(client, **fields).choices[0]
    assert len(whole.logprobs.content) == 8
    assert (
        bytes(byte for place in whole.logprobs.content for byte in place.bytes).decode(errors="replace")
        == whole.message.content
    )
    assert [len(place.top_logprobs) for place in whole.logprobs.content] == [2] * 8
    chunks = [chunk.choices[0] for chunk in chat(client, **fields, stream=True)]
    streamed = [place for choice in chunks if choice.logprobs for place in choice.logprobs.content]
    assert [place.token for place in streamed] == [place.token for place in whole.logprobs.content]


def test_an_answer_fulfils_its_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["cat", "dog"]}, "alive": {"type": "boolean"}},
        "required": ["kind", "alive"],
        "additionalProperties": False,
    }
    wrapped = {"type": "json_schema", "json_schema": {"name": "pet", "schema": schema, "strict": True}}
    for seed in range(4):
        answer = chat(client, max_tokens=60, seed=seed, temperature=2, response_format=wrapped).choices[0]
        assert answer.finish_reason == "stop"
        found = json.loads(answer.message.content)
        assert found["kind"] in ("cat", "dog")
        assert isinstance(found["alive"], bool)
    start = chat(client, max_tokens=20, seed=1, response_format={"type": "json_object"})
    assert start.choices[0].message.content.startswith("{")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"extra_body": {"min_tokens": 9}}, "min_tokens"),
        ({"extra_body": {"priority": 5000}}, "priority"),
    ],
)
def test_what_only_the_model_can_tell_is_a_400_with_its_field(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, **fields)
    assert caught.value.param == param


def test_a_schema_that_cannot_be_read_is_a_400(client: openai.OpenAI) -> None:
    wrapped = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, response_format=wrapped)
    assert caught.value.param == "response_format"


def test_the_rest_of_the_fields_are_taken(client: openai.OpenAI) -> None:
    body = {"min_p": 0.05, "min_tokens": 8, "ignore_eos": True, "priority": 3, "top_k": 5}
    assert complete(client, user="ann", extra_body=body).usage.completion_tokens == 8


def test_tokens_and_back(app: ServedApp, generator_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(generator_folder)
    text = "the cat, ça va? 日本"
    told = post(f"{app.url}/tokenize", {"model": "tiny", "prompt": text, "return_token_strs": True})
    assert told["tokens"] == tokenizer(text)["input_ids"]
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["max_model_len"] == CONTEXT
    plain = post(f"{app.url}/tokenize", {"model": "tiny", "prompt": text, "add_special_tokens": False})
    assert plain["token_strs"] is None
    assert post(f"{app.url}/detokenize", {"model": "tiny", "tokens": plain["tokens"]}) == {"prompt": text}
    chat_tokens = post(f"{app.url}/tokenize", {"model": "tiny", "messages": MESSAGES})["tokens"]
    assert tokenizer.decode(chat_tokens) == "user: the dog barked\nassistant:"
    open_end = {"model": "tiny", "messages": MESSAGES, "add_generation_prompt": False}
    assert len(post(f"{app.url}/tokenize", open_end)["tokens"]) < len(chat_tokens)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/detokenize", {"tokens": [1_000_000]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
    ],
)
def test_wrong_token_requests_name_the_field(app: ServedApp, path: str, body: dict[str, Any], named: str) -> None:
    response = httpx.post(app.url + path, json={"model": "tiny", **body})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == named


TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Bonn", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "clock"}},
]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


def test_a_forced_call_is_one_of_the_tools_whole_and_streamed(client: openai.OpenAI) -> None:
    fields = {"tools": TOOLS[:1], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 80, "seed": 3}
    whole = chat(client, **fields).choices[0]
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", None)
    (call,) = whole.message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Bonn", "Rome")
    parts = [chunk.choices[0] for chunk in chat(client, **fields, stream=True)]
    fragments = [fragment for part in parts for fragment in part.delta.tool_calls or ()]
    assert fragments[0].function.name == "weather"
    assert "".join(fragment.function.arguments for fragment in fragments) == call.function.arguments
    assert parts[-1].finish_reason == "tool_calls"


def test_a_named_call_streams_its_arguments(client: openai.OpenAI) -> None:
    fields = {"tools": TOOLS, "tool_choice": NAMED, "max_tokens": 60, "temperature": 0}
    (call,) = chat(client, **fields).choices[0].message.tool_calls
    assert (call.function.name, set(json.loads(call.function.arguments))) == ("weather", {"city"})
    fragments = [
        fragment
        for chunk in chat(client, **fields, stream=True)
        for fragment in chunk.choices[0].delta.tool_calls or ()
    ]
    assert "".join(fragment.function.arguments for fragment in fragments) == call.function.arguments
    assert [fragment.function.name for fragment in fragments[:1]] == ["weather"]


def test_a_conversation_with_calls_and_their_results(client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages: Any = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    answer = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, max_tokens=4)
    assert answer.choices[0].finish_reason in ("length", "stop")
    plain = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    assert answer.usage is not None
    assert plain.usage is not None
    assert answer.usage.prompt_tokens > plain.usage.prompt_tokens
