"""Log probabilities in answers: one form in chats, an older one in completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.serve.wire.base import WireAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.serve.calls import PlaceLogprobs, ScoredToken


class TopLogprob(WireAnswer):
    """A token that could have come."""

    token: str
    logprob: float
    bytes: list[int]
    """UTF-8; of a character that is spread over tokens, this token's part."""


class ChatTokenLogprob(TopLogprob):
    """The token that came."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(WireAnswer):
    content: list[ChatTokenLogprob]
    refusal: None = None


class CompletionLogprobs(WireAnswer):
    """Lists with one entry for each token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    """The most probable tokens, and the one that came; None where none were asked for."""
    text_offset: list[int]
    """Where in the completion's text the token begins, in characters."""


def chat_logprobs(places: Sequence[PlaceLogprobs]) -> ChatLogprobs:
    content = [
        ChatTokenLogprob(**_fields(place.token), top_logprobs=[TopLogprob(**_fields(token)) for token in place.top])
        for place in places
    ]
    return ChatLogprobs(content=content)


def completion_logprobs(places: Sequence[PlaceLogprobs], before: bytes) -> CompletionLogprobs:
    """Args:
    before: bytes of the completion's tokens that came in earlier chunks.
    """
    offsets, data = [], before
    for place in places:
        offsets.append(len(data.decode("utf-8", errors="replace")))
        data += place.token.data
    has_top = any(place.top for place in places)
    return CompletionLogprobs(
        tokens=[place.token.text for place in places],
        token_logprobs=[place.token.logprob for place in places],
        top_logprobs=[_by_text(place) for place in places] if has_top else None,
        text_offset=offsets,
    )


def _by_text(place: PlaceLogprobs) -> dict[str, float]:
    return {token.text: token.logprob for token in (*place.top, place.token)}


def _fields(token: ScoredToken) -> dict[str, object]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}
