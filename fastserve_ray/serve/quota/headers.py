"""OpenAI's ``x-ratelimit-*`` headers, and its 429."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fastserve_ray.serve.failures import Failure

if TYPE_CHECKING:
    from fastserve_ray.serve.quota.ledger import Verdict

SHORT = {"requests": "RPM", "tokens": "TPM"}


def limit_headers(verdict: Verdict) -> dict[str, str]:
    """Of what the key has a limit of; reset is when the allowance is whole again."""
    found = {}
    for name, left in (("requests", verdict.requests), ("tokens", verdict.tokens)):
        if left is not None:
            found[f"x-ratelimit-limit-{name}"] = str(left.limit)
            found[f"x-ratelimit-remaining-{name}"] = str(left.remaining)
            found[f"x-ratelimit-reset-{name}"] = duration(left.reset_s)
    return found


def duration(seconds: float) -> str:
    """As OpenAI writes them: ``120ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".")
    return f"{minutes:.0f}m{text}s" if minutes else f"{text}s"


def rate_limited(key: str, verdict: Verdict) -> Failure:
    """429 for a verdict that lacks something."""
    assert verdict.lacking is not None, "a verdict that lets the request in"
    left = verdict.requests if verdict.lacking == "requests" else verdict.tokens
    assert left is not None, "what is lacking has a limit"
    head = f"limit of {verdict.lacking} per minute ({SHORT[verdict.lacking]}) of the key {key!r}"
    facts = f"limit {left.limit}, left {left.remaining}, asked {verdict.asked}"
    if math.isinf(verdict.wait_s):
        message, retry_after_s = f"request too large for the {head}: {facts}", None
    else:
        message = f"{head} reached: {facts}; try again in {duration(verdict.wait_s)}"
        retry_after_s = max(1, math.ceil(verdict.wait_s))
    return Failure(429, message, code="rate_limit_exceeded", retry_after_s=retry_after_s, kind=verdict.lacking)
