"""What the wire models take, refuse and mean."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from fastserve_ray.engines.protocol import JsonObject, JsonSchema, SamplingParams
from fastserve_ray.serve.failures import Failure, of_validation
from fastserve_ray.serve.wire.chat import ChatRequest
from fastserve_ray.serve.wire.classify import ClassifyRequest
from fastserve_ray.serve.wire.completions import MAX_PROMPTS, CompletionRequest

if TYPE_CHECKING:
    from fastserve_ray.serve.wire.base import WireRequest


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "prompt": "p", **fields})


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


def refusal(model: type[WireRequest], body: object) -> Failure:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    return of_validation(caught.value.errors(), list(model.model_fields))


def completion_refusal(**fields: Any) -> Failure:
    return refusal(CompletionRequest, {"model": "m", "prompt": "p", **fields})


def chat_refusal(**fields: Any) -> Failure:
    return refusal(ChatRequest, {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("text", ("text",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_every_form_of_prompt(prompt: object, prompts: object) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize("prompt", [None, 5, [], [[]], [1, "a"], [[1], "a"], [-1], ["a"] * (MAX_PROMPTS + 1), True])
def test_other_prompts_are_refused_by_name(prompt: object) -> None:
    failure = completion_refusal(prompt=prompt)
    assert (failure.status, failure.param) == (400, "prompt")


def test_sampling_defaults_are_openais() -> None:
    sampling = completion().sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed, sampling.stop) == (
        1,
        1,
        None,
        None,
        (),
    )
    assert completion().sampling == SamplingParams()


def test_sampling_fields_reach_the_engine() -> None:
    sampling = completion(temperature=0, top_p=0.5, top_k=7, seed=-3, stop="END").sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0, 0.5, 7, -3)
    assert sampling.stop == ("END",)
    assert completion(stop=["a", "b"]).sampling.stop == ("a", "b")
    assert completion(top_k=-1).sampling.top_k is None
    more = completion(
        n=3,
        min_p=0.1,
        min_tokens=2,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.5,
        logit_bias={"5": -100, "7": 2.5, "8": 0},
        ignore_eos=True,
    ).sampling
    assert (more.n, more.min_p, more.min_tokens, more.ignore_eos) == (3, 0.1, 2, True)
    assert (more.presence_penalty, more.frequency_penalty, more.repetition_penalty) == (1, -1, 1.5)
    assert more.logit_bias == ((5, -100), (7, 2.5))


def test_log_probabilities_in_both_endpoints() -> None:
    assert not completion().sampling.logprobs
    assert [completion(logprobs=top).sampling.top_logprobs for top in (0, 5)] == [0, 5]
    assert completion(logprobs=0).sampling.logprobs
    sampling = chat(logprobs=True, top_logprobs=3).sampling
    assert (sampling.logprobs, sampling.top_logprobs) == (True, 3)
    assert not chat(logprobs=False, top_logprobs=0).sampling.logprobs
    assert chat_refusal(top_logprobs=3).param == "top_logprobs"


SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}}


def test_response_formats_become_constraints() -> None:
    assert chat().sampling.constraint is None
    assert chat(response_format={"type": "text"}).sampling.constraint is None
    assert chat(response_format={"type": "json_object"}).sampling.constraint == JsonObject()
    wrapped = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    assert chat(response_format=wrapped).sampling.constraint == JsonSchema(json.dumps(SCHEMA))


@pytest.mark.parametrize(
    "value",
    [
        "json",
        {},
        {"type": "xml"},
        {"type": "json_object", "schema": {}},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": "{}"}},
    ],
)
def test_bad_response_formats_are_named(value: object) -> None:
    failure = chat_refusal(response_format=value)
    assert failure.status == 400
    assert (failure.param or "").startswith("response_format")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "0.5"),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -2),
        ("seed", 2**63),
        ("seed", 1.5),
        ("stop", ["a"] * 5),
        ("stop", ""),
        ("stop", [1]),
        ("n", 0),
        ("n", 1000),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("stream", "yes"),
        ("model", ""),
        ("presence_penalty", 2.5),
        ("presence_penalty", False),
        ("frequency_penalty", "1"),
        ("repetition_penalty", 0),
        ("min_p", 1.5),
        ("min_tokens", -1),
        ("logit_bias", {"dog": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", [5]),
        ("logprobs", 21),
        ("logprobs", True),
        ("priority", 10_000),
    ],
)
def test_bad_values_are_named(field: str, value: object) -> None:
    failure = completion_refusal(**{field: value})
    assert (failure.status, failure.param, failure.code) == (400, field, "invalid_value")
    assert field in failure.message


def test_a_missing_field_is_named() -> None:
    failure = refusal(CompletionRequest, {"prompt": "p"})
    assert (failure.param, failure.code) == ("model", "missing_required_parameter")


def test_an_unknown_field_is_named_with_the_nearest_known_one() -> None:
    failure = completion_refusal(temperatura=1)
    assert (failure.status, failure.param, failure.code) == (400, "temperatura", "unknown_parameter")
    assert "did you mean 'temperature'" in failure.message


def test_an_unknown_field_inside_a_field_is_named_by_its_path() -> None:
    assert chat_refusal(stream=True, stream_options={"include_use": True}).param == "stream_options.include_use"


@pytest.mark.parametrize(
    ("field", "neutral", "active"), [("best_of", 1, 2), ("echo", False, True), ("suffix", "", "x")]
)
def test_unsupported_fields_of_completions_pass_only_without_effect(
    field: str, neutral: object, active: object
) -> None:
    completion(**{field: None})
    completion(**{field: neutral})
    failure = completion_refusal(**{field: active})
    assert (failure.status, failure.param, failure.code) == (400, field, "unsupported_value")


@pytest.mark.parametrize(
    ("field", "neutral", "active"),
    [
        ("functions", [], [{"name": "f"}]),
        ("modalities", ["text"], ["audio"]),
        ("store", False, True),
    ],
)
def test_unsupported_fields_of_chat(field: str, neutral: object, active: object) -> None:
    chat(**{field: neutral})
    assert chat_refusal(**{field: active}).param == field


def test_a_neutral_number_is_not_a_neutral_flag() -> None:
    assert completion_refusal(best_of=True).param == "best_of"
    assert completion_refusal(echo=0).param == "echo"


def test_stream_options_need_a_stream() -> None:
    assert completion_refusal(stream_options={"include_usage": True}).param == "stream_options"
    assert completion(stream=True, stream_options={"include_usage": True}).include_usage
    both = {"include_usage": True, "continuous_usage_stats": True}
    assert completion(stream=True, stream_options=both).continuous_usage
    assert not completion(stream=True, stream_options={"continuous_usage_stats": True}).continuous_usage
    assert not completion(stream=True).include_usage


def test_chat_content_parts_are_joined_and_developer_is_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = chat(messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}])
    assert [message.for_template() for message in request.messages] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb"},
    ]


CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}},
            "required": ["city"],
            "$defs": {"city": {"enum": ["Köln", "Bonn"]}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
NAMED = {"type": "function", "function": {"name": "weather"}}


def test_calls_and_their_answers_go_to_the_template() -> None:
    request = chat(
        messages=[
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
            {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
        ]
    )
    _, called, answered = [message.for_template() for message in request.messages]
    function = {"name": "weather", "arguments": {"city": "Köln"}}
    assert called["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]
    assert (called["content"], answered["tool_call_id"]) == ("", "call_1")


def test_tools_are_free_forbidden_or_forced() -> None:
    assert chat(tools=[WEATHER, CLOCK]).sampling.constraint is None
    assert len(chat(tools=[WEATHER, CLOCK], tool_choice="auto").offered_tools) == 2
    assert chat(tools=[WEATHER], tool_choice="none").offered_tools == ()
    named = chat(tools=[WEATHER, CLOCK], tool_choice=NAMED).sampling.constraint
    assert isinstance(named, JsonSchema)
    assert json.loads(named.schema) == WEATHER["function"]["parameters"]  # type: ignore[index]
    required = chat(tools=[WEATHER, CLOCK], tool_choice="required", parallel_tool_calls=False).sampling.constraint
    assert isinstance(required, JsonSchema)
    schema = json.loads(required.schema)
    assert (schema["type"], schema["minItems"], schema["maxItems"]) == ("array", 1, 1)
    assert [form["properties"]["name"]["const"] for form in schema["items"]["anyOf"]] == ["weather", "clock"]
    assert schema["$defs"] == {"city": {"enum": ["Köln", "Bonn"]}}
    assert "$defs" not in schema["items"]["anyOf"][0]["properties"]["arguments"]


def other_city() -> dict[str, Any]:
    parameters = {"type": "object", "$defs": {"city": {"type": "string"}}}
    return {"type": "function", "function": {"name": "other", "parameters": parameters}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [CLOCK, CLOCK]}, "tools"),
        ({"tools": [WEATHER, other_city()], "tool_choice": "required"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": "required", "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_wrong_tools_are_named(fields: dict[str, Any], param: str) -> None:
    failure = chat_refusal(**fields)
    assert failure.status == 400
    assert (failure.param or "").split(".")[0] == param


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": "x", "tool_call_id": "c"}],
        [{"role": "user", "tool_calls": [CALL]}],
        [{"role": "assistant", "tool_calls": []}],
        [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}]}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": "x", "mood": "good"}],
        "hi",
    ],
)
def test_bad_messages_are_named(messages: object) -> None:
    failure = chat_refusal(messages=messages)
    assert failure.status == 400
    assert failure.param is not None
    assert failure.param.startswith("messages")


def test_both_names_of_the_token_limit() -> None:
    assert chat().token_limit is None
    assert chat(max_tokens=3).token_limit == 3
    assert chat(max_completion_tokens=4).token_limit == 4
    assert chat(max_tokens=5, max_completion_tokens=5).token_limit == 5
    assert chat_refusal(max_tokens=5, max_completion_tokens=6).param == "max_tokens"


def test_classify_takes_one_text_or_several() -> None:
    assert ClassifyRequest(model="m", input="a").texts == ("a",)
    assert ClassifyRequest(model="m", input=["a", "b"]).texts == ("a", "b")
    assert refusal(ClassifyRequest, {"model": "m", "input": []}).param == "input"


def test_a_body_that_is_no_object_is_refused() -> None:
    assert refusal(CompletionRequest, ["prompt"]).status == 400
