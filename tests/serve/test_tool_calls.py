"""Calls of tools in what models write, whole and in every possible cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastserve_ray.serve.tool_calls import AutoReader, CallPart, NamedReader, Reader, TextReader

WEATHER = '{"name": "weather", "arguments": {"city": "Köln"}}'
CLOCK = '{"name": "clock", "parameters": {}}'
CALLS: list[tuple[str, Any]] = [("weather", {"city": "Köln"}), ("clock", {})]

Read = tuple[str, list[tuple[str, Any]]]


def read(reader: Reader, *pieces: str) -> Read:
    """The text, and the calls with their arguments joined."""
    events = [event for piece in pieces for event in reader.push(piece)] + list(reader.finish())
    text = "".join(event for event in events if isinstance(event, str))
    parts = [event for event in events if isinstance(event, CallPart)]
    names = {part.index: part.name for part in parts if part.name is not None}
    assert list(names) == list(range(len(names)))
    joined = {index: "".join(part.arguments for part in parts if part.index == index) for index in names}
    return text, [(str(names[index]), json.loads(arguments)) for index, arguments in joined.items()]


CASES: dict[str, tuple[str, Read]] = {
    "an answer": ("It rains.", ("It rains.", [])),
    "tags": (f"<tool_call>\n{WEATHER}\n</tool_call>", ("", CALLS[:1])),
    "two between tags": (f"<tool_call>{WEATHER}</tool_call>\n<tool_call>{CLOCK}</tool_call>\n", ("", CALLS)),
    "text before": (f"Let me see. <tool_call>{CLOCK}</tool_call>", ("Let me see. ", CALLS[1:])),
    "no closing tag": (f"<tool_call>{WEATHER}", ("", CALLS[:1])),
    "JSON alone": (WEATHER, ("", CALLS[:1])),
    "a list": (f" [{WEATHER}, {CLOCK}]", ("", CALLS)),
    "JSON that is no call": ('{"city": "Köln"}', ('{"city": "Köln"}', [])),
    "another's tool": ('{"name": "rm", "arguments": {}}', ('{"name": "rm", "arguments": {}}', [])),
    "another's tool between tags": (
        '<tool_call>{"name": "rm"}</tool_call> done',
        ('<tool_call>{"name": "rm"}</tool_call> done', []),
    ),
    "broken JSON": ('<tool_call>{"name": </tool_call>', ('<tool_call>{"name": </tool_call>', [])),
    "cut short": ('[{"name": "weather", "argu', ('[{"name": "weather", "argu', [])),
    "an empty list": ("[]", ("[]", [])),
    "a tag that is none": ("a <tool_ b <tool_call", ("a <tool_ b <tool_call", [])),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_a_call_and_what_is_text(case: str) -> None:
    written, expected = CASES[case]
    assert read(AutoReader({"weather", "clock"}), written) == expected


@pytest.mark.parametrize("case", CASES)
def test_it_does_not_matter_how_the_text_is_cut(case: str) -> None:
    written, expected = CASES[case]
    assert read(AutoReader({"weather", "clock"}), *written) == expected
    for at in range(len(written)):
        assert read(AutoReader({"weather", "clock"}), written[:at], written[at:]) == expected


def test_an_answer_is_not_held_back() -> None:
    reader = AutoReader({"clock"})
    assert list(reader.push("It ")) == ["It "]
    assert list(reader.push("rains <tool")) == ["rains "]
    assert list(reader.push("box>")) == ["<toolbox>"]


def test_the_arguments_of_a_named_tool_stream() -> None:
    reader = NamedReader("weather")
    assert list(reader.push('{"city"')) == [CallPart(0, '{"city"', "weather")]
    assert list(reader.push(': "Köln"}')) == [CallPart(0, ': "Köln"}')]
    assert list(reader.finish()) == []


def test_without_tools_everything_is_text() -> None:
    assert read(TextReader(), WEATHER[:9], WEATHER[9:]) == (WEATHER, [])
