"""The tokenizer that is trained on the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from fastserve_ray.data.tokenizer import SPECIAL_TOKENS, train_bpe
from fastserve_ray.models.loading import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = pa.array(["the cat sat on the mat, the cat ate"] * 20 + ["äöü 漢字 🙂"] * 3, pa.large_string())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe([TEXTS], 300, "text-generation")


@pytest.mark.parametrize("text", ["the cat", "  spaces\n\ttabs ", "漢字 🙂 never seen: ж", "<|weird|>", ""])
def test_any_text_survives(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_come_first_and_are_whole(tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|pad|>")
    assert tokenizer("a<|user|>b")["input_ids"][1] == tokenizer.convert_tokens_to_ids("<|user|>")
    assert len(tokenizer) <= 300


def test_it_learns_frequent_words(tokenizer: Any) -> None:
    assert len(tokenizer("the cat sat on the mat")["input_ids"]) < 12


def test_a_conversation_is_rendered(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>\nBe short.<|endoftext|>\n<|user|>\nHi<|endoftext|>\n<|assistant|>\n"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
