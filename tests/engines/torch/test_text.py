"""Tokens to final text: characters over several tokens, and stop strings over several characters."""

from __future__ import annotations

import pytest

from fastserve_ray.engines.torch.detokenize import Detokenizer, decoder_of
from fastserve_ray.engines.torch.stop import StopMatcher
from fastserve_ray.engines.torch.text import TextStream
from tests.engines.tiny import build_tokenizer

BYTE_TOKENS = {byte: token for token in range(3, 259) if (byte := build_tokenizer().convert_ids_to_tokens(token))}
"""Byte-level letter to its token."""


def stream(*stops: str) -> TextStream:
    tokenizer = build_tokenizer()
    return TextStream(Detokenizer(decoder_of(tokenizer), frozenset(tokenizer.all_special_ids), ()), StopMatcher(stops))


def byte_by_byte(text: str) -> list[int]:
    """One token for each byte of ``text``, so that characters and stop strings cross as many borders as can be."""
    backend = build_tokenizer().backend_tokenizer
    letters = "".join(piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    return [BYTE_TOKENS[letter] for letter in letters]


def push_all(text_stream: TextStream, text: str) -> tuple[str, bool]:
    """Text until it stops or ``text`` ends; what is held back then stays there."""
    out = ""
    for token in byte_by_byte(text):
        new, stopped = text_stream.push(token)
        out += new
        if stopped:
            return out, True
    return out, False


@pytest.mark.parametrize("stop", ["京は", "🙂", "b東", "は夜"])
def test_stop_strings_of_characters_of_several_tokens(stop: str) -> None:
    text = "ab東京は夜🙂"
    assert push_all(stream(stop), text) == (text.partition(stop)[0], True)


def test_nothing_of_a_stop_string_comes_out_early() -> None:
    whole = stream("京都")
    assert push_all(whole, "東京") == ("東", False)
    assert push_all(whole, "駅") == ("京駅", False)


def test_the_rest_may_hold_the_stop_string() -> None:
    """A character cut in the middle becomes text when the completion ends only."""
    cut = byte_by_byte("é")[0]
    stopping = stream("b\ufffd")
    assert push_all(stopping, "ab") == ("a", False)
    assert stopping.push(cut) == ("", False)
    assert stopping.flush() == ("", True)


def test_what_was_held_back_comes_out_at_the_end() -> None:
    held = stream("b!")
    assert push_all(held, "ab") == ("a", False)
    assert held.flush() == ("b", False)


def test_text_before_stops_count_is_not_searched() -> None:
    late = stream("ab")
    for token in byte_by_byte("aba"):
        text, stopped = late.push(token, may_stop=False)
        assert text
        assert not stopped
    assert push_all(late, "bcab") == ("bc", True)
