"""Tokens as the bytes of their text."""

from __future__ import annotations

import math

from fastserve_ray.engines.protocol import TokenLogprob
from fastserve_ray.serve.spelling import LEAST_LOGPROB, Spelling
from tests.engines.tiny import build_tokenizer


def test_bytes_of_the_tokens_make_the_text() -> None:
    """Also where a character is spread over tokens, whose texts alone would be lost."""
    tokenizer = build_tokenizer()
    spelling = Spelling(tokenizer)
    text = "the cat sat, ça va? 日本 🙂"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    data = [spelling.data(token) for token in ids]
    assert b"".join(data).decode() == text
    assert any(b"\xf0" in part and "\ufffd" in part.decode("utf-8", errors="replace") for part in data)


def test_a_special_token_has_its_name() -> None:
    tokenizer = build_tokenizer()
    assert Spelling(tokenizer).data(tokenizer.bos_token_id) == tokenizer.bos_token.encode()


def test_a_row_of_the_logits_without_a_token_has_no_text() -> None:
    tokenizer = build_tokenizer()
    assert Spelling(tokenizer).data(len(tokenizer) + 5) == b""


def test_a_tokenizer_that_does_not_tell_its_bytes_is_asked_for_texts() -> None:
    class Slow:
        def decode(self, ids: list[int]) -> str:
            return f"<{ids[0]}>"

    assert Spelling(Slow()).data(7) == b"<7>"


def test_places_with_their_alternatives() -> None:
    tokenizer = build_tokenizer()
    first, second = tokenizer("the cat", add_special_tokens=False)["input_ids"][:2]
    place = TokenLogprob(first, -0.5, ((first, -0.5), (second, -math.inf)))
    (spelled,) = Spelling(tokenizer)((place,))
    assert spelled.token == spelled.top[0]
    assert spelled.top[1].logprob == LEAST_LOGPROB
