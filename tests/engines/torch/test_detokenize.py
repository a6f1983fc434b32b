"""Text that grows token by token equals the text decoded at once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fastserve_ray.engines.torch.detokenize import MAX_PENDING_TOKENS, Detokenizer, decoder_of
from tests.engines.tiny import VOCAB_SIZE, build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [
    "plain words, and more",
    "grüße aus köln",
    "東京は夜",
    "🙂🙃 👨‍👩‍👧",
    "  two  spaces\n\nand lines ",
    "a\u0301 combining",
    "\ufffd kept",
]


def grow(tokenizer: Any, ids: list[int], prompt: list[int]) -> tuple[list[str], str]:
    detokenizer = Detokenizer(decoder_of(tokenizer), frozenset(tokenizer.all_special_ids), prompt)
    pieces = [detokenizer.push(token) for token in ids]
    return pieces, detokenizer.flush()


def byte_fallback_tokenizer() -> Any:
    """As Llama's: words with a leading space, other characters byte by byte, the first space dropped."""
    words = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], "▁once", "▁upon", "▁", "a"]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("text", TEXTS)
def test_whole_characters_only(text: str) -> None:
    tokenizer = build_tokenizer()
    pieces, rest = grow(tokenizer, tokenizer(text).input_ids, [])
    assert "".join(pieces) + rest == text
    if "\ufffd" not in text:
        assert rest == ""
        assert all("\ufffd" not in piece for piece in pieces)


@pytest.mark.parametrize("seed", range(20))
def test_random_tokens_equal_decoding_at_once(seed: int) -> None:
    tokenizer = build_tokenizer()
    draw = random.Random(seed)
    ids = [draw.randrange(VOCAB_SIZE) for _ in range(300)]
    pieces, rest = grow(tokenizer, ids, [])
    assert "".join(pieces) + rest == tokenizer.decode(ids, skip_special_tokens=True)


def test_leading_space_follows_the_prompt() -> None:
    tokenizer = byte_fallback_tokenizer()
    once, upon = tokenizer.convert_tokens_to_ids(["▁once", "▁upon"])
    assert grow(tokenizer, [once, upon], []) == (["once", " upon"], "")
    assert grow(tokenizer, [upon, once], [1, once]) == ([" upon", " once"], "")
    assert grow(tokenizer, [1, upon, 2, once], [once]) == (["", " upon", "", " once"], "")


def test_byte_fallback() -> None:
    tokenizer = byte_fallback_tokenizer()
    ids = [3 + byte for byte in "é🙂".encode()]
    assert grow(tokenizer, ids, []) == (["", "é", "", "", "", "🙂"], "")
    assert grow(tokenizer, ids[:1], []) == ([""], "\ufffd")


def test_bytes_that_never_become_a_character_come_out() -> None:
    tokenizer = byte_fallback_tokenizer()
    pieces, _ = grow(tokenizer, [3 + 0x80] * (3 * MAX_PENDING_TOKENS), [])
    assert sum(piece != "" for piece in pieces) == 3


def test_work_for_a_token_does_not_grow() -> None:
    tokenizer = build_tokenizer()
    longest = 0

    def decode(ids: Any) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    detokenizer = Detokenizer(decode, frozenset(), [])
    for token in tokenizer("the cat sat on the mat, grüße 東京 " * 50).input_ids:
        detokenizer.push(token)
    assert longest <= 8


def test_stories_tokenizer(shared_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_folder / "models" / "stories260K")
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        pieces, rest = grow(tokenizer, ids, [tokenizer.bos_token_id])
        assert "".join(pieces) + rest == tokenizer.decode(ids)
