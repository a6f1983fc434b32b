"""The commands of docs/cluster.md that render something, as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.commands import fastserve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^fastserve (render .+)$", PAGE, re.MULTILINE)


def test_an_error_reads_as_the_page_shows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"^\$ fastserve (validate .+)\n((?:.+\n)+?)```", PAGE, re.MULTILINE)
    assert found is not None
    monkeypatch.chdir(ROOT)
    done = fastserve(capsys, *shlex.split(found[1]))
    assert done.code == 2
    assert done.err.split() == found[2].split()


def test_there_are_commands() -> None:
    assert {command.split()[1] for command in COMMANDS} == {
        "ray-up", "raycluster", "rayjob", "rayservice", "serve-config", "helm-values",
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_works(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cluster").symlink_to(ROOT / "cluster")
    monkeypatch.chdir(tmp_path)
    done = fastserve(capsys, *shlex.split(command))
    assert done.code == 0, done.err
    written = [path.read_text() for path in tmp_path.glob("*.yaml")]
    assert "made by fastserve render" in "".join([done.out, *written])
