"""How much work a call is, before it is done: what the ingress expects, learned from the calls before."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fastserve_ray.serve.calls import Frame, GenerateCall

SENDER = uuid4().hex[:16]
"""This process, for replicas that tell the work of each of their senders."""
FIRST_BYTES_PER_TOKEN = 4.0
"""Of English text, until this model's own is known."""
FIRST_COMPLETION_TOKENS = 128.0
"""Until completions were seen, of a call that does not limit them."""
MEMORY = 64
"""Calls over which the estimates are averaged."""


@dataclass(frozen=True)
class ExpectedWork:
    """Of one call, in tokens."""

    num_prompt_tokens: float
    """Over all prompts."""
    num_completion_tokens: float
    """Over all choices."""
    sender: str = SENDER
    max_completion_tokens: float = inf
    """What the call allows, over all choices."""
    sent_at: float | None = None
    """Seconds since the epoch, by the sender's clock."""


class WorkEstimate:
    """What calls of one model cost, as this process has seen it. Means over the last calls, so that a change of
    traffic is followed."""

    def __init__(self) -> None:
        self._bytes_per_token = _Mean()
        self._completion_tokens = _Mean()

    def expect(self, call: GenerateCall) -> ExpectedWork:
        """The ingress has no tokenizer: a text's tokens are estimated from its bytes."""
        num_bytes, num_tokens = _sizes(call)
        bytes_per_token = self._bytes_per_token.value or FIRST_BYTES_PER_TOKEN
        expected = self._completion_tokens.value or call.max_tokens or FIRST_COMPLETION_TOKENS
        if call.max_tokens is not None:
            expected = min(expected, call.max_tokens)
        prompt = max(1.0, num_tokens + num_bytes / bytes_per_token)
        choices = _num_choices(call)
        allowed = inf if call.max_tokens is None else float(call.max_tokens * choices)
        return ExpectedWork(prompt, expected * choices, max_completion_tokens=allowed, sent_at=time.time())

    def learn(self, call: GenerateCall, frame: Frame) -> None:
        """``frame``: the last one of a call that has ended."""
        num_bytes, num_tokens = _sizes(call)
        if num_bytes and not num_tokens and frame.num_prompt_tokens:
            self._bytes_per_token.add(num_bytes / frame.num_prompt_tokens)
        self._completion_tokens.add(frame.num_completion_tokens / _num_choices(call))


def rough_work(texts: Iterable[object]) -> ExpectedWork:
    """Of texts that are only read: strings, pairs of them, or tokens."""
    return ExpectedWork(sum(map(_rough_tokens, texts)), 0.0)


def _rough_tokens(text: object) -> float:
    if isinstance(text, str):
        return len(text) / FIRST_BYTES_PER_TOKEN
    return sum(map(_rough_tokens, text)) if isinstance(text, tuple | list) else 1.0


class _Mean:
    """Of all values first, and a moving one after `MEMORY` of them."""

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        self._count = min(self._count + 1, MEMORY)
        self.value += (value - self.value) / self._count


def _num_choices(call: GenerateCall) -> int:
    return call.sampling.n * max(1, len(call.prompts))


def _sizes(call: GenerateCall) -> tuple[int, int]:
    """Bytes of the texts, and tokens where prompts are given as tokens."""
    texts = [prompt for prompt in call.prompts if isinstance(prompt, str)]
    texts += [text for message in call.messages or () for text in _texts_of(message)]
    num_tokens = sum(len(prompt) for prompt in call.prompts if not isinstance(prompt, str))
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts), num_tokens


def _texts_of(message: Mapping[str, object]) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [] if content is None else [str(content)]
