"""Prompts have exactly the length that is asked, with tokenizers that work in different ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastserve_ray.bench.prompts import TextPrompts, TokenPrompts
from fastserve_ray.bench.tokens import LocalCounter
from fastserve_ray.bench.traces import TraceRow
from fastserve_ray.errors import UsageError
from tests.engines.tiny import build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


class EveryThird:
    """A token for three letters, over the edges of words: no word has a cost of its own."""

    async def ids(self, text: str) -> list[int]:
        return [1, *map(len, (text[at : at + 3] for at in range(0, len(text), 3)))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return folder


async def test_texts_have_the_length_asked(folder: Path) -> None:
    counter = LocalCounter(str(folder), "completions")
    prompts = TextPrompts(counter, seed=0)
    await prompts.calibrate()
    for number, length in enumerate((8, 9, 31, 64, 257, 1000)):
        text, count = await prompts.build(TraceRow(None, length, 1), number)
        assert len(await counter.ids(text)) == count == length


async def test_lengths_are_mended_where_tokens_cross_words() -> None:
    prompts = TextPrompts(EveryThird(), seed=0)
    await prompts.calibrate()
    for length in (5, 20, 99):
        text, count = await prompts.build(TraceRow(None, length, 1), 0)
        assert len(await EveryThird().ids(text)) == count == length


async def test_a_length_below_the_shortest_prompt_is_told() -> None:
    prompts = TextPrompts(EveryThird(), seed=0)
    await prompts.calibrate()
    assert await prompts.build(TraceRow(None, 1, 1), 0) == ("The", 2)


async def test_each_prompt_is_its_own_and_a_seed_makes_the_same() -> None:
    first, second = TextPrompts(EveryThird(), 5), TextPrompts(EveryThird(), 5)
    await first.calibrate()
    await second.calibrate()
    row = TraceRow(None, 50, 1)
    assert (await first.build(row, 1))[0] == (await second.build(row, 1))[0]
    assert (await first.build(row, 1))[0] != (await first.build(row, 2))[0]


async def test_blocks_with_one_name_are_one_prefix(folder: Path) -> None:
    counter = LocalCounter(str(folder), "completions")
    texts, tokens = TextPrompts(counter, 0), TokenPrompts(counter, 0)
    for prompts in (texts, tokens):
        await prompts.calibrate()
        one, _ = await prompts.build(TraceRow(None, 1300, 1, (7, 8, 9)), 0)
        two, _ = await prompts.build(TraceRow(None, 1300, 1, (7, 8, 10)), 1)
        ids = [prompt if isinstance(prompt, list) else await counter.ids(prompt) for prompt in (one, two)]
        shared = next(at for at, (left, right) in enumerate(zip(*ids, strict=True)) if left != right)
        assert 1024 <= shared < 1100


async def test_token_prompts_are_exact_and_hold_no_special_tokens(folder: Path) -> None:
    counter = LocalCounter(str(folder), "completions")
    prompts = TokenPrompts(counter, 0)
    await prompts.calibrate()
    tokens, count = await prompts.build(TraceRow(None, 77, 1), 0)
    assert len(tokens) == count == 77
    assert not set(tokens) & set(await counter.ids(""))


def test_a_missing_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tokenizer"):
        LocalCounter(str(tmp_path / "none"), "completions")


def test_a_chat_needs_a_template(folder: Path) -> None:
    with pytest.raises(UsageError, match="chat template"):
        LocalCounter(str(folder), "chat")
