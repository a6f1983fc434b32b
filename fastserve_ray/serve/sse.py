"""Server-sent events, as OpenAI frames them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

MEDIA_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Proxies between must not hold events back."""


def event(body: BaseModel, *, exclude_unset: bool = True) -> bytes:
    """One event; JSON has no raw line break, so one ``data:`` line holds it."""
    return b"data: " + body.model_dump_json(exclude_unset=exclude_unset).encode() + b"\n\n"
