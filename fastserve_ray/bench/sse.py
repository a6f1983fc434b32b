"""A stream of server-sent events, as it comes in pieces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

DONE = "[DONE]"


class EventBuffer:
    """Puts pieces together to events."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[str]:
        """The data of every event that ``piece`` completes."""
        *events, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        return [data for data in map(_data, events) if data]


def _data(event: bytes) -> str:
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines).decode(errors="replace")


@dataclass(frozen=True)
class Chunk:
    """One event of a completion, of either endpoint."""

    has_text: bool
    """It carries a part of the answer: text, reasoning or a tool call."""
    has_choice: bool
    usage: dict[str, Any] | None = None
    error: str | None = None


def parse_chunk(data: str) -> Chunk:
    """Raises:
    ValueError: it is no JSON object.
    """
    body = json.loads(data)
    if not isinstance(body, dict):
        raise ValueError("an event is no JSON object")
    if body.get("error") is not None:
        return Chunk(False, False, error=error_message(body))
    choices = body.get("choices") or ()
    return Chunk(any(map(_has_text, choices)), bool(choices), body.get("usage"))


def _has_text(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    parts = (choice.get("text"), *map(delta.get, ("content", "reasoning_content", "reasoning", "tool_calls")))
    return any(parts)


def error_message(body: Any) -> str:
    """The message of an error in OpenAI's shape, or of FastAPI's; else the body itself, cut."""
    found = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
    if isinstance(found, dict):
        found = found.get("message", found)
    return str(found)[:300]
