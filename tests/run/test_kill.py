"""A driver killed with SIGKILL in any stage; the next one ends with the same artifacts, and repeats nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.storage.filesystem import Storage
from tests.run import fakes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCRIPT = """
import sys
from fastserve_ray.run.driver import run
from tests.run.fakes import TABLE, NoRay, make_spec
run(make_spec(sys.argv[1]), wait=False, stages=TABLE, runtime=NoRay())
"""


def drive(root: Path, *, dies: str | None = None) -> int:
    environment = {**os.environ, **({fakes.DIES: dies} if dies else {})}
    return subprocess.run([sys.executable, "-c", SCRIPT, str(root)], env=environment, check=False).returncode


def contents(root: Path) -> dict[str, dict[str, str]]:
    """sha256 of every file of every artifact."""
    manifests = Registry(Storage.open(str(root))).list()
    return {manifest.id: {file.path: file.sha256 for file in manifest.files} for manifest in manifests}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("stage", fakes.NAMES)
def test_a_killed_run_is_taken_up_where_it_was(
    tmp_path: Path, executed: Callable[[], list[str]], stage: str, place: str
) -> None:
    assert drive(tmp_path / "killed", dies=f"{stage}:{place}") == -9
    assert drive(tmp_path / "killed") == 0
    assert executed() == [*fakes.NAMES, "shut-down"], "each stage finished its work exactly once"
    assert drive(tmp_path / "whole") == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list((tmp_path / "killed" / ".work").iterdir())


def test_the_events_of_a_killed_run_stay(tmp_path: Path, executed: Callable[[], list[str]]) -> None:
    assert drive(tmp_path / "root", dies="train:after") == -9
    from fastserve_ray.run.status import read_status

    (status,) = read_status(Storage.open(str(tmp_path / "root")))
    assert status.state == "killed"
    assert [stage.state for stage in status.stages[:3]] == ["published", "published", "published"]
    assert [stage.state for stage in status.stages[3:5]] == ["to do", "to do"]
