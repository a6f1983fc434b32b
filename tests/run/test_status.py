"""How far runs are, as the command shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastserve_ray.errors import FastServeError
from fastserve_ray.run.driver import run
from fastserve_ray.run.status import read_status
from fastserve_ray.storage.filesystem import Storage
from tests.cli.commands import fastserve
from tests.run import fakes

if TYPE_CHECKING:
    from pathlib import Path


def drive(root: Path) -> None:
    run(fakes.make_spec(root), wait=False, stages=fakes.TABLE, runtime=fakes.NoRay())


def test_a_finished_run(tmp_path: Path) -> None:
    drive(tmp_path)
    (status,) = read_status(Storage.open(str(tmp_path)))
    assert status.state == "finished"
    assert [(stage.name, stage.state) for stage in status.stages] == [
        *((name, "published") for name in fakes.NAMES),
        ("serve", "served"),
    ]
    assert status.stages[2].metrics == {"eval_loss": 0.5}
    assert status.last_event == "run_finished"


def test_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fakes.FAILS, "train")
    with pytest.raises(FastServeError):
        drive(tmp_path)
    (status,) = read_status(Storage.open(str(tmp_path)))
    assert status.state == "failed"
    assert [stage.state for stage in status.stages] == ["published", "published", "failed", "to do", "to do"]
    assert status.error is not None
    assert "it does not work" in status.error


def test_the_latest_runs_of_a_name(tmp_path: Path) -> None:
    for _ in range(3):
        drive(tmp_path)
    storage = Storage.open(str(tmp_path))
    every = read_status(storage, name="fake")
    assert len(every) == 3
    assert read_status(storage, last=1) == every[-1:]
    assert read_status(storage, name="other") == []


def test_the_command_prints_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drive(tmp_path)
    capsys.readouterr()
    shown = fastserve(capsys, "status", "--storage", str(tmp_path))
    assert "finished" in shown.out
    assert "compress" in shown.out
    (only,) = fastserve(capsys, "status", "--storage", str(tmp_path), "--json").data["runs"]
    assert only["stages"][0]["state"] == "published"


def test_an_empty_storage_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fastserve(capsys, "status", "--storage", str(tmp_path)).out == f"no runs in {tmp_path}\n"
