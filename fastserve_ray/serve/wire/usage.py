"""``/v1/usage``: what API keys have used. Not in OpenAI's API, whose usage pages ask for an account's own keys."""

from __future__ import annotations

from fastserve_ray.serve.wire.base import WireAnswer


class KeyUsage(WireAnswer):
    """Of one key, of one model."""

    key: str
    """Its name; empty where the server asks for no keys."""
    model: str
    requests: int
    """Let in."""
    refused: int
    """For want of requests or tokens."""
    prompt_tokens: int
    completion_tokens: int


class UsageList(WireAnswer):
    object: str = "list"
    since: int
    """Unix time from which on this was counted."""
    data: list[KeyUsage]
