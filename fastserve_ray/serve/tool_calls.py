"""From what a model writes to the tools that it calls.

Models are trained to write calls in forms of their own. Read here are the two that most open models use: JSON between
``<tool_call>`` and ``</tool_call>`` (Hermes, Qwen), and JSON alone, one object or a list (Llama 3, and Mistral behind a
special token that texts do not show). Each call has a ``name`` and ``arguments``, or ``parameters``. A text that names
no tool of the request is an answer and no call. Where the request forces a call, the grammar has made sure of the form.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

BEGIN, END = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class CallPart:
    """A part of a call. The first of each call has its name; the arguments of all of them join to JSON."""

    index: int
    """Of the call in its choice."""
    arguments: str
    name: str | None = None


Event = str | CallPart
"""Text of the answer, or of a call."""


class Reader(Protocol):
    """Reads one choice."""

    def push(self, text: str) -> Iterator[Event]:
        """What is certain after ``text`` has come."""
        ...

    def finish(self) -> Iterator[Event]:
        """The rest, when no more text comes."""
        ...


class TextReader:
    """There are no tools."""

    def push(self, text: str) -> Iterator[Event]:
        if text:
            yield text

    def finish(self) -> Iterator[Event]:
        yield from ()


class NamedReader:
    """The text is the arguments of one tool, which the request named."""

    def __init__(self, name: str) -> None:
        self._name: str | None = name

    def push(self, text: str) -> Iterator[Event]:
        if text:
            yield CallPart(0, text, self._name)
            self._name = None

    def finish(self) -> Iterator[Event]:
        yield from ()


class AutoReader:
    """The text may be an answer, calls, or both.

    Args:
        names: of the request's tools.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._num_calls = 0
        self._is_begun = False
        """Whether it is known that the text is not JSON alone."""

    def push(self, text: str) -> Iterator[Event]:
        self._held += text
        if not self._is_begun:
            start = self._held.lstrip()
            if not start or start[0] in "[{":
                return
            self._is_begun = True
        yield from self._tagged()

    def finish(self) -> Iterator[Event]:
        held, self._held = self._held, ""
        calls = None if self._is_begun else self._calls(held)
        if calls is None and held.startswith(BEGIN):
            calls = self._calls(held.removeprefix(BEGIN))
        if calls is not None:
            yield from calls
        elif held:
            yield held

    def _tagged(self) -> Iterator[Event]:
        """What is certain of a text with calls between tags; the rest is held."""
        while True:
            before, tag, after = self._held.partition(BEGIN)
            if not tag:
                kept = _overlap(self._held, BEGIN)
                yield from self._text(self._held[: len(self._held) - kept])
                self._held = self._held[len(self._held) - kept :]
                return
            inside, end, rest = after.partition(END)
            yield from self._text(before)
            self._held = tag + after
            if not end:
                return
            calls = self._calls(inside)
            self._held = rest.lstrip("\n") if calls is not None else rest
            yield from [tag + inside + end] if calls is None else calls

    def _text(self, text: str) -> Iterator[Event]:
        """White space between calls is nobody's."""
        if text and not (self._num_calls and text.isspace()):
            yield text

    def _calls(self, text: str) -> list[CallPart] | None:
        """None when ``text`` is no call of the request's tools."""
        try:
            found: Any = json.loads(text)
        except ValueError:
            return None
        items = found if isinstance(found, list) else [found]
        pairs = [_name_and_arguments(item) for item in items]
        if not pairs or any(pair is None or pair[0] not in self._names for pair in pairs):
            return None
        parts = [
            CallPart(self._num_calls + at, json.dumps(arguments, ensure_ascii=False), name)
            for at, (name, arguments) in enumerate(pair for pair in pairs if pair is not None)
        ]
        self._num_calls += len(parts)
        return parts


def _name_and_arguments(item: object) -> tuple[str, dict[str, Any]] | None:
    if not isinstance(item, dict):
        return None
    name = item.get("name")
    arguments = item.get("arguments", item.get("parameters", {}))
    return (name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def _overlap(text: str, tag: str) -> int:
    """Characters at the end of ``text`` that may be the beginning of ``tag``."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:size])), 0)
