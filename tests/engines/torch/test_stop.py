from __future__ import annotations

import random

import pytest

from fastserve_ray.engines.torch.stop import StopMatcher


def stream(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    matcher = StopMatcher(stops)
    out: list[str] = []
    for piece in pieces:
        text, stopped = matcher.push(piece)
        out.append(text)
        if stopped:
            return out, True
    return [*out, matcher.flush()], False


@pytest.mark.parametrize(
    ("stops", "pieces", "expected", "stopped"),
    [
        (["END"], ["a", "b E", "N", "D c"], ["a", "b ", "", ""], True),
        (["END"], ["a E", "N", "x"], ["a ", "", "ENx", ""], False),
        (["END"], ["a E", "N"], ["a ", "", "EN"], False),
        (["\n\n"], ["a\n", "\nb"], ["a", ""], True),
        (["aab"], ["a", "a", "a", "b"], ["", "", "a", ""], True),
        (["xyz", "b"], ["ab", "c"], ["a"], True),
        ([], ["a", "b"], ["a", "b", ""], False),
        ([""], ["a"], ["a", ""], False),
        (["one", "two"], ["tw", "eone"], ["", "twe"], True),
    ],
)
def test_examples(stops: list[str], pieces: list[str], expected: list[str], stopped: bool) -> None:
    assert stream(stops, pieces) == (expected, stopped)


@pytest.mark.parametrize("seed", range(50))
def test_any_cut_gives_the_text_before_the_stop(seed: int) -> None:
    draw = random.Random(seed)
    stop = "".join(draw.choices("ab", k=draw.randint(1, 4)))
    text = "".join(draw.choices("abc", k=60))
    pieces: list[str] = []
    rest = text
    while rest:
        size = draw.randint(0, 5)
        pieces, rest = [*pieces, rest[:size]], rest[size:]
    out, stopped = stream([stop], pieces)
    assert stopped == (stop in text)
    assert "".join(out) == text.partition(stop)[0]
