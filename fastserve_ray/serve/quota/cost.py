"""Tokens of a request: an estimate before it runs, and what it has used after.

The process that answers HTTP has no tokenizer; four characters a token is what OpenAI's limits assume too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.serve.calls import Frame, GenerateCall

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CHARACTERS_PER_TOKEN = 4


def estimate(call: object) -> int:
    """Prompt, and completions as long as the request lets them be, where it says so."""
    if not isinstance(call, GenerateCall):
        texts: Iterable[object] = getattr(call, "texts", ())
        return sum(_tokens(text) for text in texts)
    if call.messages is not None:
        prompt = sum(_tokens(message.get("content")) for message in call.messages)
        num_prompts = 1
    else:
        prompt = sum(_tokens(text) for text in call.prompts)
        num_prompts = len(call.prompts)
    return prompt + (call.max_tokens or 0) * call.sampling.n * num_prompts


def used(answer: object) -> tuple[int, int]:
    """Prompt and completion tokens of a replica's answer."""
    if isinstance(answer, Frame):
        return answer.num_prompt_tokens, answer.num_completion_tokens
    return int(getattr(answer, "num_tokens", 0)), 0


def _tokens(content: object) -> int:
    if isinstance(content, str):
        return -(-len(content) // CHARACTERS_PER_TOKEN)
    return _of_parts(content) if isinstance(content, list | tuple) else 0


def _of_parts(parts: Sequence[object]) -> int:
    """Token ids, a pair of texts, or a message's parts."""
    if all(isinstance(part, int) for part in parts):
        return len(parts)
    return sum(_tokens(part.get("text") if isinstance(part, dict) else part) for part in parts)
