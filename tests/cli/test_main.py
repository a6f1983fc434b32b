from __future__ import annotations

import pickle
from collections.abc import Callable

import click
import pytest

from fastserve_ray import __version__
from fastserve_ray.cli import common
from fastserve_ray.cli.main import COMMANDS, SUMMARIES, cli
from fastserve_ray.errors import DataError, FastServeError, PlacementError, Problem, SpecError
from tests.cli.commands import fastserve, fastserve_process


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = fastserve(capsys, "--version")
    assert (outcome.code, outcome.out.strip()) == (0, f"fastserve, version {__version__}")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_without_loading_one(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = fastserve(capsys, flag)
    assert outcome.code == 0
    for name in SUMMARIES:
        assert name in outcome.out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_resolves_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = fastserve(capsys, name, "-h")
    assert outcome.code == 0
    assert outcome.out.startswith(f"Usage: fastserve {name}")


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = fastserve(capsys, "validat", "x.yaml")
    assert outcome.code == 2
    assert "Did you mean 'validate'?" in outcome.err


def test_an_unknown_flag_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert fastserve(capsys, "validate", "--jsn", "x.yaml").code == 2


Fail = Callable[[BaseException], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Makes every command raise the given error."""

    def arrange(error: BaseException) -> None:
        @click.command("schema")
        def command() -> None:
            raise error

        monkeypatch.setattr(type(cli), "get_command", lambda self, context, name: command)

    return arrange


class WrappedError(DataError):
    """As Ray wraps what a worker raised: of the same class, with the original as ``cause``."""

    def __init__(self, cause: FastServeError) -> None:
        super().__init__("a traceback of a hundred lines")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("no rows", value="x.csv", allowed="rows", key="data.train.path"), 1, "change: data.train.path"),
        (PlacementError("too many", value="9 x (1 CPU)"), 2, "got: 9 x (1 CPU)"),
        (WrappedError(DataError("no rows")), 1, "error: no rows"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
    ],
)
def test_errors_are_plain_and_have_their_exit_code(
    fail: Fail, error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(error)
    outcome = fastserve(capsys, "schema")
    assert outcome.code == code
    assert text in outcome.err
    assert "Traceback" not in outcome.err
    assert not outcome.out


def test_debug_shows_the_traceback(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    fail(DataError("no rows"))
    with pytest.raises(DataError, match="no rows"):
        fastserve(capsys, "--debug", "schema")


def test_a_bug_of_ours_is_not_hidden(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    fail(AssertionError("a bug"))
    with pytest.raises(AssertionError, match="a bug"):
        fastserve(capsys, "schema")


def test_on_a_terminal_errors_are_styled(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    problem = Problem("train.lr", "unknown key", value="1", allowed="x", nearest="learning_rate", file="a.yaml", line=3)
    common.show_error(SpecError([problem]))
    common.show_error(DataError("no rows", value="[x]", key="data.train.path"))
    text = click.unstyle(capsys.readouterr().err)
    assert "a.yaml:3 train.lr" in text
    assert "did you mean learning_rate?" in text
    assert "got: [x]" in text


def test_a_reader_that_leaves_is_no_error() -> None:
    import subprocess
    import sys

    command = f"{sys.executable} -m fastserve_ray.cli.main schema | head -c 10; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_reach_the_shell() -> None:
    outcome = fastserve_process("validate", "absent.yaml")
    assert outcome.code == 2
    assert outcome.err.startswith("error: 1 problem in the spec\n  absent.yaml: the file cannot be read")


def test_an_error_of_a_worker_keeps_its_problems() -> None:
    error = SpecError([Problem("a", "b")])
    assert pickle.loads(pickle.dumps(error)).problems == error.problems
