"""``fastserve serve TARGET`` stays what it was, beside the commands for applications of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.commands import fastserve

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "arguments",
    [["./nowhere"], ["here", "./nowhere"], ["--port", "0", "./nowhere", "--no-wait"], ["--json", "./nowhere"]],
)
def test_a_target_is_served_here(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    outcome = fastserve(capsys, "serve", *arguments)
    assert outcome.code == 2
    assert "there is no such model folder\n  got: ./nowhere" in outcome.err


def test_the_help_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = fastserve(capsys, "serve", "--help")
    for word in ("deploy", "here", "rollback", "status", "fastserve serve TARGET"):
        assert word in outcome.out
    assert "--port" in fastserve(capsys, "serve", "model", "--help").out


def test_what_has_no_verified_model_is_not_deployed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(
        f"name: tiny\nstorage: {tmp_path}\nmodel: {{config: {{model_type: gpt2}}}}\n"
        "data: {train: {kind: python-docs}}\ntrain: {}\nserve: {}\n"
    )
    outcome = fastserve(capsys, "serve", "deploy", str(file), "--address", "http://127.0.0.1:1")
    assert outcome.code == 1
    assert "this file has no verified model yet" in outcome.err


def test_deploy_needs_an_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(f"name: tiny\nstorage: {tmp_path}\nmodel: {{base: some/model}}\nserve: {{}}\n")
    outcome = fastserve(capsys, "serve", "status", str(file))
    assert outcome.code == 2
    assert "which cluster?" in outcome.err
