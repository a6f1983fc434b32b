"""Prompts of exact token lengths, each its own, so that no cache of prefixes makes the load smaller than it says.

A text is put together from words whose cost in tokens was asked once; then its length is asked, and mended where tokens
run over the edges of words. Prompts of tokens are exact as they are. Blocks of a trace (`TraceRow.blocks`) become the
same words, or tokens, wherever their name comes: prompts then share prefixes as the trace's did.
"""

from __future__ import annotations

import random
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

from fastserve_ray.bench.traces import BLOCK_TOKENS
from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fastserve_ray.bench.tokens import TokenCounter
    from fastserve_ray.bench.traces import TraceRow

OPENING = "The"
_TEXT = """
a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9 the of and to in is that it was for on
are with as his they at be this from have or by one had not but what all were when we there can an your which
their said if do will each about how up out them then she many some so these would other into has more her two
like him see time could no make than first been its who now people my made over did down only way find use may
water long little very after words called just where most know
"""
WORDS = tuple(_TEXT.split())
MAX_MENDS = 8
"""Times that a text is counted and mended before its nearest length is taken."""
Part = TypeVar("Part", str, int)


class TextPrompts:
    """Texts; `calibrate` comes first."""

    def __init__(self, counter: TokenCounter, seed: int) -> None:
        self._counter, self._seed = counter, seed
        self._base = 0
        self._costs: dict[str, int] = {}
        self._words: tuple[str, ...] = ()
        self._fillers: tuple[str, ...] = ()

    async def calibrate(self) -> None:
        """Learn what each word costs.

        Raises:
            UsageError: tokens cannot be counted, or no word makes a prompt longer.
        """
        self._base = len(await self._counter.ids(OPENING))
        for word in WORDS:
            cost = len(await self._counter.ids(f"{OPENING} {word}")) - self._base
            if cost > 0:
                self._costs[word] = cost
        if not self._costs:
            raise UsageError("no word makes a prompt longer in this tokenizer", key="--tokenizer")
        cheapest = min(self._costs.values())
        self._words = tuple(self._costs)
        self._fillers = tuple(word for word, cost in self._costs.items() if cost == cheapest)

    async def build(self, row: TraceRow, number: int) -> tuple[str, int]:
        """A prompt and its tokens, as near to the row's as can be."""
        source = random.Random(f"{self._seed} {number}")
        words = self._take(
            chain(_of_blocks(row, self._block), self._endless(source)), row.num_prompt_tokens - self._base
        )
        best: tuple[str, int] | None = None
        for _ in range(MAX_MENDS):
            text = " ".join((OPENING, *words))
            count = len(await self._counter.ids(text))
            off = row.num_prompt_tokens - count
            if best is None or abs(off) < abs(row.num_prompt_tokens - best[1]):
                best = text, count
            if off == 0 or (off < 0 and not words):
                break
            words = self._mended(words, off, source)
        assert best is not None
        return best

    def _mended(self, words: list[str], off: int, source: random.Random) -> list[str]:
        """With ``off`` tokens more, or fewer when negative."""
        words = list(words)
        while off < 0 and words:
            off += self._costs[words.pop()]
        return words + self._take(iter(lambda: source.choice(self._fillers), ""), off)

    def _take(self, words: Iterator[str], num_tokens: int) -> list[str]:
        """Words of ``num_tokens`` together, the last ones cheap so that it comes out even."""
        taken: list[str] = []
        left = num_tokens
        while left > 0:
            word = next(words)
            if self._costs[word] > left:
                word = self._fillers[left % len(self._fillers)]
                if self._costs[word] > left:
                    break
            taken.append(word)
            left -= self._costs[word]
        return taken

    def _endless(self, source: random.Random) -> Iterator[str]:
        while True:
            yield source.choice(self._words)

    def _block(self, source: random.Random) -> list[str]:
        return self._take(self._endless(source), BLOCK_TOKENS)


class TokenPrompts:
    """Lists of tokens, of those that the words above are made of; `calibrate` comes first."""

    def __init__(self, counter: TokenCounter, seed: int) -> None:
        self._counter, self._seed = counter, seed
        self._tokens: tuple[int, ...] = ()

    async def calibrate(self) -> None:
        """Raises:
        UsageError: tokens cannot be asked.
        """
        special = set(await self._counter.ids(""))
        ids = await self._counter.ids(" ".join(WORDS))
        self._tokens = tuple(sorted(set(ids) - special))

    async def build(self, row: TraceRow, number: int) -> tuple[list[int], int]:
        source = random.Random(f"{self._seed} {number}")
        own = iter(lambda: source.choice(self._tokens), -1)
        tokens = list(islice(chain(_of_blocks(row, self._block), own), row.num_prompt_tokens))
        return tokens, len(tokens)

    def _block(self, source: random.Random) -> Sequence[int]:
        return source.choices(self._tokens, k=BLOCK_TOKENS)


def _of_blocks(row: TraceRow, block: Callable[[random.Random], Sequence[Part]]) -> Iterator[Part]:
    return chain.from_iterable(block(random.Random(f"block {name}")) for name in row.blocks)


Prompts = TextPrompts | TokenPrompts
