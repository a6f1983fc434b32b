"""An embedded Ray of a run: one worker process for the stages, errors that arrive whole, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.events.log import EventReader
from fastserve_ray.storage.filesystem import Storage

pytestmark = pytest.mark.slow


def start(root: Path, work: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.run.ray_fakes", str(root)]
    environment = {**os.environ, "FAKE_WORK": work}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def drive(root: Path, work: str) -> tuple[int, str, str]:
    with start(root, work) as process:
        output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def descendants(process_id: int) -> list[psutil.Process]:
    return psutil.Process(process_id).children(recursive=True)


def wait_until_gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still run after ``seconds``; zombies, which some containers' first process never reaps, do not."""
    deadline = time.monotonic() + seconds
    while (running := [process for process in processes if is_running(process)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return running


def is_agent(process: psutil.Process) -> bool:
    """Ray's idle agents, which end a minute after their raylet was killed; see fastserve_ray/run/ray_runtime.py."""
    try:
        return process.name() in {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
    except psutil.NoSuchProcess:
        return False


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_stages_share_one_worker_process_and_ray_is_gone_afterwards(tmp_path: Path) -> None:
    code, output, errors = drive(tmp_path, "publish_process_id")
    assert code == 0, errors
    manifests = Registry(Storage.open(str(tmp_path))).list()
    assert len({manifest.info["process_id"] for manifest in manifests}) == 1
    assert len(manifests) == 4
    _, logs, has_torch = output.split()[-3:]
    assert has_torch == "False", "the driver imports no torch"
    assert not Path(logs).exists()
    (run_id,) = Storage.open(str(tmp_path)).list_folders("runs")
    events = EventReader(str(tmp_path), run_id).poll()
    assert [event.stage for event in events if event.fields.get("message") == "in the worker"] == [
        manifest.stage for manifest in manifests
    ]


def test_errors_of_the_worker_arrive_with_all_their_fields_and_a_traceback(tmp_path: Path) -> None:
    code, output, errors = drive(tmp_path, "raise_error")
    assert code == 1
    assert "row 7 has no text" in errors
    assert "change: data.columns.text" in errors
    (run_id,) = Storage.open(str(tmp_path)).list_folders("runs")
    saved = (tmp_path / "runs" / run_id / "errors" / "train.txt").read_text()
    assert "in raise_error" in saved
    logs = Path(output.split()[-2])
    assert logs.exists(), "the logs of a failed run stay"
    assert str(logs) in saved


def test_an_unexpected_error_and_a_death_of_the_worker_are_explained(tmp_path: Path) -> None:
    _, _, errors = drive(tmp_path, "raise_bug")
    assert "stage train failed with RuntimeError" in errors
    _, _, errors = drive(tmp_path, "die")
    assert "the process of stage train died" in errors
    assert "ran out of memory" in errors


def test_a_killed_driver_takes_its_ray_along_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with start(tmp_path, "sleep") as process:
        deadline = time.monotonic() + 60
        while not is_sleeping(tmp_path):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        family = descendants(process.pid)
        assert any("raylet" in member.name() for member in family)
        process.kill()
        process.communicate()
    assert wait_until_gone([member for member in family if not is_agent(member)], seconds=20) == []
    code, _, errors = drive(tmp_path, "publish_process_id")
    assert code == 0, errors
    assert [manifest.stage for manifest in Registry(Storage.open(str(tmp_path))).list()][2:] == ["train", "compress"]


def is_sleeping(root: Path) -> bool:
    storage = Storage.open(str(root))
    events = (event for run_id in storage.list_folders("runs") for event in EventReader(str(root), run_id).poll())
    return any(event.fields.get("message") == "sleeping" for event in events)


def test_sigterm_stops_ray(tmp_path: Path) -> None:
    with start(tmp_path, "sleep") as process:
        deadline = time.monotonic() + 60
        while not is_sleeping(tmp_path):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        family = descendants(process.pid)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert wait_until_gone(family, seconds=10) == []
