"""Frames to OpenAI's answers, and their framing as server-sent events."""

from __future__ import annotations

import json
from typing import Any

from fastserve_ray.engines.protocol import Prediction
from fastserve_ray.serve import sse
from fastserve_ray.serve.answers import Answers, ChatAnswers, CompletionAnswers, classify_answer, usage_of
from fastserve_ray.serve.calls import Classified, Frame, Piece, PlaceLogprobs, ScoredToken
from fastserve_ray.serve.frames import merge_frames
from fastserve_ray.serve.tool_calls import AutoReader, NamedReader

FRAMES = [
    Frame((Piece(0, "He"), Piece(1, "")), 5, 2),
    Frame((Piece(0, "llo\n", "stop"),), 5, 4),
    Frame((Piece(1, "Bye", "length"),), 5, 7),
]


def streamed(answers: Answers, *, usage: bool = False) -> list[dict[str, Any]]:
    events = [sse.event(chunk) for frame in FRAMES for chunk in answers.chunks(frame)]
    if usage:
        events.append(sse.event(answers.usage_chunk(usage_of(FRAMES[-1]))))
    for event in events:
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        assert event.count(b"\n") == 2
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def of_choice(chunks: list[dict[str, Any]], index: int) -> list[dict[str, Any]]:
    return [chunk["choices"][0] for chunk in chunks if chunk["choices"] and chunk["choices"][0]["index"] == index]


def test_chat_chunks_to_the_letter() -> None:
    chunks = streamed(ChatAnswers("chatcmpl-1", "m"))
    assert [choice["delta"] for choice in of_choice(chunks, 0)] == [
        {"role": "assistant", "content": ""},
        {"content": "He"},
        {"content": "llo\n"},
        {},
    ]
    assert [choice["finish_reason"] for choice in of_choice(chunks, 0)] == [None, None, None, "stop"]
    assert [choice["finish_reason"] for choice in of_choice(chunks, 1)] == [None, None, "length"]
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        ("chatcmpl-1", "chat.completion.chunk", "m")
    }
    assert len({chunk["created"] for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


def test_with_usage_every_chunk_has_the_field_and_the_last_the_numbers() -> None:
    for answers in (ChatAnswers("c", "m", True), CompletionAnswers("c", "m", True)):
        *chunks, last = streamed(answers, usage=True)
        assert all(chunk["usage"] is None for chunk in chunks)
        assert last["choices"] == []
        assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        assert last["id"] == "c"


def test_with_continuous_usage_every_chunk_tells_the_tokens_up_to_it() -> None:
    for answers in (ChatAnswers("c", "m", True, True), CompletionAnswers("c", "m", True, True)):
        counts = [chunk["usage"]["completion_tokens"] for chunk in streamed(answers, usage=True)]
        assert counts == sorted(counts)
        assert set(counts) == {frame.num_completion_tokens for frame in FRAMES}
        assert counts[-1] == FRAMES[-1].num_completion_tokens


def test_completion_chunks_leave_out_empty_text() -> None:
    chunks = streamed(CompletionAnswers("cmpl-1", "m"))
    assert [(choice["text"], choice["finish_reason"]) for choice in of_choice(chunks, 0)] == [
        ("He", None),
        ("llo\n", "stop"),
    ]
    assert [(choice["text"], choice["finish_reason"]) for choice in of_choice(chunks, 1)] == [("Bye", "length")]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


def test_whole_answers() -> None:
    frame = Frame((Piece(0, "Hello", "stop"), Piece(1, "Bye", "length")), 5, 7)
    chat = json.loads(ChatAnswers("c", "m").whole(frame).model_dump_json())
    assert chat["object"] == "chat.completion"
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert [choice["finish_reason"] for choice in chat["choices"]] == ["stop", "length"]
    completion = json.loads(CompletionAnswers("c", "m").whole(frame).model_dump_json())
    assert [choice["text"] for choice in completion["choices"]] == ["Hello", "Bye"]
    assert completion["usage"]["total_tokens"] == 12


def test_classify_answer_names_every_probability() -> None:
    result = Classified((Prediction("good", 1, (0.25, 0.75)),), 4, ("bad", "good"))
    answer = json.loads(classify_answer("id", "m", result).model_dump_json())
    assert answer["data"] == [{"index": 0, "label": "good", "label_id": 1, "probs": {"bad": 0.25, "good": 0.75}}]
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}


def scored(data: bytes, logprob: float) -> ScoredToken:
    return ScoredToken(data, logprob)


PLACES = (
    PlaceLogprobs(scored(b"na", -0.1), (scored(b"na", -0.1), scored(b"no", -2.5))),
    PlaceLogprobs(scored(b"\xc3", -0.2), (scored(b"x", -0.15),)),
    PlaceLogprobs(scored(b"\xaf", -0.3), (scored(b"\xaf", -0.3),)),
)


def test_chat_log_probabilities_to_the_letter() -> None:
    frame = Frame((Piece(0, "naï", "stop", PLACES),), 5, 3)
    (choice,) = json.loads(ChatAnswers("c", "m").whole(frame).model_dump_json())["choices"]
    first, second, _ = choice["logprobs"]["content"]
    assert first == {
        "token": "na",
        "logprob": -0.1,
        "bytes": [110, 97],
        "top_logprobs": [
            {"token": "na", "logprob": -0.1, "bytes": [110, 97]},
            {"token": "no", "logprob": -2.5, "bytes": [110, 111]},
        ],
    }
    assert (second["token"], second["bytes"]) == ("bytes:\\xc3", [0xC3])
    streamed_choice = next(iter(list(ChatAnswers("c", "m").chunks(frame))[1:])).choices[0]
    assert streamed_choice.delta.content == "naï"
    assert streamed_choice.logprobs is not None
    assert len(streamed_choice.logprobs.content) == 3


def test_completion_log_probabilities_know_where_tokens_begin_in_every_chunk() -> None:
    answers = CompletionAnswers("c", "m")
    frames = [Frame((Piece(0, "na", None, PLACES[:1]),), 5, 1), Frame((Piece(0, "ï", "stop", PLACES[1:]),), 5, 3)]
    first, second = (json.loads(chunk.model_dump_json()) for frame in frames for chunk in answers.chunks(frame))
    assert first["choices"][0]["logprobs"] == {
        "tokens": ["na"],
        "token_logprobs": [-0.1],
        "top_logprobs": [{"na": -0.1, "no": -2.5}],
        "text_offset": [0],
    }
    assert second["choices"][0]["logprobs"]["text_offset"] == [2, 3]
    assert second["choices"][0]["logprobs"]["top_logprobs"][0] == {"x": -0.15, "bytes:\\xc3": -0.2}


CALLING = [
    Frame((Piece(0, 'Wait. <tool_call>{"name": "clock",'),), 5, 4),
    Frame((Piece(0, ' "arguments": {"zone": 1}}</tool_call>', "stop"),), 5, 9),
]


def test_calls_of_tools_whole_and_in_chunks_that_join_to_the_same() -> None:
    def answers() -> ChatAnswers:
        return ChatAnswers("c", "m", make_reader=lambda: AutoReader({"clock"}))

    (choice,) = json.loads(answers().whole(merge_frames(CALLING)).model_dump_json())["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "Wait. ")
    assert call["id"].startswith("call_")
    assert call["function"] == {"name": "clock", "arguments": '{"zone": 1}'}
    streamed_answers = answers()
    chunks = [
        json.loads(sse.event(chunk).removeprefix(b"data: "))["choices"][0]
        for frame in CALLING
        for chunk in streamed_answers.chunks(frame)
    ]
    assert [chunk["delta"].get("content") for chunk in chunks] == ["", "Wait. ", None, None]
    (fragment,) = chunks[2]["delta"]["tool_calls"]
    assert (fragment["index"], fragment["type"], fragment["function"]) == (0, "function", call["function"])
    assert [chunk["finish_reason"] for chunk in chunks] == [None, None, None, "tool_calls"]


def test_a_call_that_the_limit_cuts_says_so() -> None:
    answers = ChatAnswers("c", "m", make_reader=lambda: NamedReader("clock"))
    (choice,) = answers.whole(Frame((Piece(0, '{"zo', "length"),), 5, 2)).choices
    assert (choice.finish_reason, choice.message.content) == ("length", None)
