"""A line of JSON for each request, in Serve's log of the ingress (``logs/serve`` of Ray's session)."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from fastserve_ray.serve.calls import GenerateCall

if TYPE_CHECKING:
    from fastserve_ray.serve.auth.caller import Caller
    from fastserve_ray.serve.observe import Observed

logger = logging.getLogger("ray.serve.requests")
"""Below Serve's own, whose files it uses."""


def log_request(caller: Caller, call: object, seen: Observed, *, with_texts: bool) -> None:
    """No API key, and no text unless ``with_texts``."""
    logger.setLevel(logging.INFO)  # Serve's own says less
    logger.info(json.dumps(line_of(caller, call, seen, with_texts=with_texts), ensure_ascii=False, default=str))


def line_of(caller: Caller, call: object, seen: Observed, *, with_texts: bool) -> dict[str, Any]:
    """What the line says; times in seconds."""
    line: dict[str, Any] = {
        "request_id": caller.request_id,
        "key": caller.name,
        "model": seen.model,
        "call": type(call).__name__.removesuffix("Call").lower(),
        "outcome": seen.code or "ok",
        "prompt_tokens": seen.num_prompt_tokens,
        "generation_tokens": seen.num_generation_tokens,
        **{name.removesuffix("_seconds"): round(value, 6) for name, value in seen.seconds().items()},
    }
    if with_texts:
        line["prompt"] = _text_of(call)
    return line


def _text_of(call: object) -> object:
    if isinstance(call, GenerateCall):
        return call.prompts if call.messages is None else call.messages
    return getattr(call, "texts", None)
