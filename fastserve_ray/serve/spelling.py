"""Tokens of log probabilities to the bytes of their text, for any fast tokenizer."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from fastserve_ray.serve.calls import PlaceLogprobs, ScoredToken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastserve_ray.engines.protocol import TokenLogprob

LEAST_LOGPROB = -9999.0
"""OpenAI's figure for a token that cannot come; JSON has no infinity."""
SPECIAL = b"\xff"
"""llguidance marks special tokens so; no text begins with it."""


class Spelling:
    """Knows a model's vocabulary as bytes. It is read when it is first asked for, in up to a second.

    Args:
        tokenizer: a tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def load(self) -> None:
        """Read the vocabulary now, if it is not there yet: away from an event loop whose streams would wait."""
        _ = self._vocabulary

    def __call__(self, logprobs: Sequence[TokenLogprob]) -> Iterator[PlaceLogprobs]:
        """One place for each of ``logprobs``."""
        for place in logprobs:
            top = tuple(self._scored(*pair) for pair in place.top)
            yield PlaceLogprobs(self._scored(place.token_id, place.logprob), top)

    def _scored(self, token_id: int, logprob: float) -> ScoredToken:
        return ScoredToken(self.data(token_id), max(logprob, LEAST_LOGPROB))

    def data(self, token_id: int) -> bytes:
        """The token's bytes as they stand in a text; of a special token, its name's. None where the model's logits are
        wider than the vocabulary."""
        if self._vocabulary is None:
            return str(self._tokenizer.decode([token_id])).encode()
        if token_id >= self._vocabulary.vocab_size:
            return b""
        return bytes(self._vocabulary.decode_bytes([token_id])).removeprefix(SPECIAL)

    @cached_property
    def _vocabulary(self) -> Any:
        """None for tokenizers that do not tell their bytes; characters that are spread over tokens are lost then."""
        try:
            from llguidance.hf import from_tokenizer

            return from_tokenizer(self._tokenizer)
        except (ImportError, ValueError, TypeError, AttributeError, RuntimeError):
            return None
