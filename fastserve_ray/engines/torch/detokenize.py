"""Tokens to text, one token at a time.

A token's text depends on its neighbours: bytes of one character are spread over tokens, and decoders treat the
first token of a text differently. So a short window is decoded: tokens whose text is out (context) and those whose
text is not (pending); the new text is what the pending ones add. Constant work per token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are no character, or not yet."""
NUM_CONTEXT_TOKENS = 6
"""Tokens of the prompt's end that the first window holds; one would do, but for tokens without text of their own."""
MAX_PENDING_TOKENS = 32
"""A character has at most 4 bytes, so what is not text after so many tokens never will be; it is given out as it is."""

Decode = Callable[[Sequence[int]], str]


def decoder_of(tokenizer: Any) -> Decode:
    """Plain decoding without special tokens; the Rust tokenizer itself where there is one, which is much faster."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return lambda ids: str(backend.decode(ids, skip_special_tokens=True))
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Detokenizer:
    """The text of one completion, as it grows. All that ``push`` and ``flush`` return is what decoding at once gives.

    Args:
        decode: tokens to text, see `decoder_of`.
        special_ids: tokens without text.
        prompt_token_ids: what the completion follows; decides, for example, about a leading space.
    """

    def __init__(self, decode: Decode, special_ids: frozenset[int], prompt_token_ids: Sequence[int]) -> None:
        self._decode = decode
        self._special_ids = special_ids
        self._window = [token for token in prompt_token_ids[-NUM_CONTEXT_TOKENS:] if token not in special_ids]
        self._num_context = len(self._window)
        self._context_text = decode(self._window) if self._window else ""

    def push(self, token_id: int) -> str:
        """The text that ``token_id`` completes: whole characters only, so often "" for a part of one."""
        if token_id in self._special_ids:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        num_pending = len(self._window) - self._num_context
        is_whole = len(text) > len(self._context_text) and not text.endswith(REPLACEMENT)
        if not is_whole and num_pending < MAX_PENDING_TOKENS:
            return ""
        return self._give_out(text)

    def flush(self) -> str:
        """The text of pending tokens, when no more will come; incomplete characters show as U+FFFD."""
        if len(self._window) == self._num_context:
            return ""
        return self._give_out(self._decode(self._window))

    def _give_out(self, text: str) -> str:
        new = text[len(self._context_text) :]
        del self._window[: self._num_context]
        self._num_context = len(self._window)
        self._context_text = self._decode(self._window)
        return new
