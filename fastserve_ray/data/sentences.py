"""Documents to the segments that masked language models train on: stretches of sentences, alone or in pairs.

Pairs are made as for BERT (arXiv 1810.04805): sentences fill a row up to its length; a first part of them is segment A,
and segment B is the rest, or half of the time a stretch of another document, in which case the rest comes again in
the next row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastserve_ray.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

WINDOW = 512
"""Documents that a random segment is drawn from; about so many are in memory."""
_END = re.compile("(?<=[.!?])\\s+|(?<=[\u3002\uff01\uff1f])|\\s*\\n+\\s*")
"""Latin and Chinese full stops, exclamation and question marks, and line breaks."""


@dataclass(frozen=True)
class Segments:
    """The text of one row."""

    first: str
    second: str | None = None
    is_random: bool = False
    """Whether ``second`` is of another document."""


def sentences(text: str) -> list[str]:
    """Parts of ``text`` that end in a full stop, a question, an exclamation or a line break."""
    return [part.strip() for part in _END.split(text) if part.strip()]


class SegmentMaker:
    """Cuts documents into rows.

    Args:
        lengths: tokens of each of some texts, without special tokens.
        room: tokens of a row, special tokens left out.
        is_paired: whether rows have two segments.
        seed: of the draws.
    """

    def __init__(self, lengths: Callable[[Sequence[str]], list[int]], room: int, *, is_paired: bool, seed: int) -> None:
        self._lengths = lengths
        self._room = room
        self._is_paired = is_paired
        self._random = np.random.default_rng([seed, 1])

    def rows(self, texts: Iterable[str]) -> Iterator[Segments]:
        """All rows.

        Raises:
            DataError: pairs need a second document.
        """
        window: list[list[_Sentence]] = []
        before: list[list[_Sentence]] = []
        for text in texts:
            document = self._measured(text)
            if document:
                window.append(document)
            if len(window) == WINDOW:
                yield from self._of_window(window, before)
                window, before = [], window
        yield from self._of_window(window, before)

    def _measured(self, text: str) -> list[_Sentence]:
        """Sentences with their lengths; one that fills more than a row is halved between words until it fits."""
        parts = sentences(text)
        measured = [_Sentence(*pair) for pair in zip(parts, self._lengths(parts), strict=True)] if parts else []
        return [piece for sentence in measured for piece in self._halved(sentence) if piece.length]

    def _halved(self, sentence: _Sentence) -> Iterator[_Sentence]:
        words = sentence.text.split()
        if sentence.length <= self._room or len(words) < 2:
            yield sentence
            return
        halves = [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])]
        for half in zip(halves, self._lengths(halves), strict=True):
            yield from self._halved(_Sentence(*half))

    def _of_window(self, window: list[list[_Sentence]], before: list[list[_Sentence]]) -> Iterator[Segments]:
        for index, document in enumerate(window):
            others = [*window[:index], *window[index + 1 :]] or before
            if self._is_paired and not others:
                raise _alone()
            yield from self._of_document(document, others)

    def _of_document(self, document: list[_Sentence], others: list[list[_Sentence]]) -> Iterator[Segments]:
        start = 0
        while start < len(document):
            stretch = self._stretch(document, start)
            if not self._is_paired:
                yield Segments(_joined(stretch))
                start += len(stretch)
                continue
            cut = 1 if len(stretch) < 3 else int(self._random.integers(1, len(stretch)))
            is_random = len(stretch) == 1 or bool(self._random.random() < 0.5)
            first = stretch[:cut]
            if not is_random:
                yield Segments(_joined(first), _joined(stretch[cut:]))
                start += len(stretch)
                continue
            yield Segments(_joined(first), self._other(others, self._room - _total(first)), is_random=True)
            start += cut

    def _stretch(self, document: list[_Sentence], start: int) -> list[_Sentence]:
        """As many sentences as fit, at least one."""
        taken = [document[start]]
        for sentence in document[start + 1 :]:
            if _total(taken) + sentence.length > self._room:
                break
            taken.append(sentence)
        return taken

    def _other(self, others: list[list[_Sentence]], room: int) -> str:
        other = others[int(self._random.integers(len(others)))]
        start = int(self._random.integers(len(other)))
        taken = [other[start]]
        for sentence in other[start + 1 :]:
            if _total(taken) + sentence.length > room:
                break
            taken.append(sentence)
        return _joined(taken)


def _alone() -> DataError:
    return DataError(
        "the next sentence can only be predicted with a second document to draw wrong ones from",
        value="one document",
        key="data.next_sentence",
        hint="false, or split the text: blank lines separate documents",
    )


@dataclass(frozen=True)
class _Sentence:
    text: str
    length: int
    """In tokens."""


def _total(parts: Sequence[_Sentence]) -> int:
    return sum(part.length for part in parts)


def _joined(parts: Sequence[_Sentence]) -> str:
    return " ".join(part.text for part in parts)
