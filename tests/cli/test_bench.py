"""The command's own checks: what is wrong with its flags is told before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.commands import fastserve

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = "http://127.0.0.1:9"
"""The port of discard, which nobody listens on."""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--users", "2", "--rate", "1"), "closed loop"),
        (("--input", "many"), "token counts"),
        (("--slo", "fast"), "no objective"),
        (("--trace", "none.csv"), "cannot be read"),
        (("--trace", "none.csv", "--input", "3"), "own lengths"),
        (("--prompts", "tokens", "--endpoint", "chat"), "a chat has texts"),
        (("--plot", "none/here.png"), "folder"),
        ((), "no server answers"),
    ],
)
def test_what_is_wrong_is_told(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str) -> None:
    outcome = fastserve(capsys, "bench", NOBODY, *flags)
    assert outcome.code in (1, 2)
    assert words in outcome.err
    assert outcome.out == ""


def test_an_address_without_a_scheme_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = fastserve(capsys, "bench", "localhost:8000")
    assert outcome.code == 2
    assert "http://HOST:PORT" in outcome.err


def test_a_trace_without_the_columns_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    outcome = fastserve(capsys, "bench", NOBODY, "--trace", str(tmp_path / "t.csv"))
    assert "no column" in outcome.err
    assert "inputlength" in outcome.err
