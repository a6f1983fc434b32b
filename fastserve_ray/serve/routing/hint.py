"""What a router knows of a request: its prompt in blocks, and how much work it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.serve.calls import GenerateCall

BLOCK_TOKENS = 16
"""Tokens in a block, as in the engine's cache."""
BLOCK_BYTES = 64
"""Of a text, which an ingress without a tokenizer cannot cut into tokens: about as many as a block of tokens."""
MAX_BLOCKS = 2048
"""Blocks of a prompt that are looked at: 32 Ki tokens. What comes after is work, but no prefix."""


@dataclass(frozen=True)
class RoutingHint:
    """One request, as routers see it."""

    keys: tuple[int, ...] = ()
    """Of each whole block of the prompt, of all before it and of itself: two prompts with the same nth key are equal
    up to there."""
    num_prompt_tokens: float = 1.0
    """Known, or an estimate."""
    num_completion_tokens: float = 0.0
    """What is expected, over all choices."""

    @property
    def num_tokens(self) -> float:
        """All the work there is when nothing is cached."""
        return self.num_prompt_tokens + self.num_completion_tokens

    def num_missing_tokens(self, num_cached_blocks: int) -> float:
        """Of the prompt, that must be computed where so many of its blocks are cached."""
        if not self.keys:
            return self.num_prompt_tokens
        return self.num_prompt_tokens * (1.0 - num_cached_blocks / len(self.keys))


def call_keys(call: GenerateCall) -> tuple[int, ...]:
    """Of its first prompt, or of its tools and messages in order: a conversation that goes on begins as before."""
    if call.messages is not None:
        return text_keys(json.dumps([[*call.tools], [*call.messages]], ensure_ascii=False, default=str))
    prompt = call.prompts[0] if call.prompts else ""
    return text_keys(prompt) if isinstance(prompt, str) else token_keys(prompt)


def token_keys(tokens: Sequence[int]) -> tuple[int, ...]:
    """Keys of a prompt given as tokens."""
    return _chain(np.asarray(tokens, dtype="<i8").tobytes(), BLOCK_TOKENS * 8)


def text_keys(text: str) -> tuple[int, ...]:
    """Keys of a prompt given as text. Equal texts have equal tokens, so its blocks stand for those of its tokens."""
    return _chain(text.encode("utf-8", "surrogatepass"), BLOCK_BYTES)


def _chain(data: bytes, block: int) -> tuple[int, ...]:
    """The same in every process, unlike Python's own hash."""
    keys = []
    digest = b""
    for start in range(0, min(len(data) // block, MAX_BLOCKS) * block, block):
        digest = blake2b(data[start : start + block], digest_size=8, key=digest).digest()
        keys.append(int.from_bytes(digest, "little"))
    return tuple(keys)
