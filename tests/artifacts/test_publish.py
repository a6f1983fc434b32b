"""A publisher that is killed, or that runs out of space, leaves nothing that a reader could take for an artifact."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHER = """
import os, resource, signal, sys, threading
from pathlib import Path
from fastserve_ray.artifacts import checksums, publish
from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.errors import StorageError
from fastserve_ray.storage.filesystem import Storage

root, folder, how = sys.argv[1:]
if how == "kill-after-first-file":
    copy, calls = publish.copy_durably, []
    def killing_copy(source, path):
        if calls:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(copy(source, path))
    publish.copy_durably = killing_copy
if how == "kill-before-rename":
    publish._rename = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
if how == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Registry(Storage.open(root)).publish(
        Path(folder), kind="model", stage="train", digest="c" * 64, parents={}, spec={}, metrics={}, info={}
    )
except StorageError as error:
    print(error)
    sys.exit(3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 300_000)
    return folder


def run_publisher(root: Path, folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PUBLISHER, str(root), str(folder), how]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", ["kill-after-first-file", "kill-before-rename"])
def test_a_killed_publish_is_invisible_and_the_next_one_succeeds(tmp_path: Path, folder: Path, how: str) -> None:
    root = tmp_path / "root"
    assert run_publisher(root, folder, how).returncode == -9
    registry = Registry(Storage.open(str(root)))
    assert registry.list() == []
    assert registry.find("train", "c" * 64) is None
    assert list((root / "artifacts" / ".staging").glob("train-*/*.bin")), "the kill came before any file was copied"
    assert run_publisher(root, folder, "whole").returncode == 0
    manifest = registry.verify("train-" + "c" * 16)
    assert len(manifest.files) == 3
    assert [path.name for path in (root / "artifacts" / ".staging").iterdir()] == ["lock"]


def test_readers_see_nothing_or_everything_while_publishers_are_killed(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "root"
    registry = Registry(Storage.open(str(root)))
    for attempt in range(6):
        command = [sys.executable, "-c", PUBLISHER, str(root), str(folder), "whole"]
        with subprocess.Popen(command) as publisher:
            deadline = time.monotonic() + 0.3 + 0.1 * attempt
            while time.monotonic() < deadline:
                if registry.find("train", "c" * 64) is not None:
                    registry.verify("train-" + "c" * 16)
            publisher.kill()
    assert run_publisher(root, folder, "whole").returncode == 0
    registry.verify("train-" + "c" * 16)


def test_a_full_disk_ends_with_a_clear_error_and_no_half_artifact(tmp_path: Path, folder: Path) -> None:
    """RLIMIT_FSIZE stands for a full disk: the write stops half way, as it would there."""
    root = tmp_path / "root"
    done = run_publisher(root, folder, "full")
    assert done.returncode == 3
    assert "cannot publish to" in done.stdout
    assert "change: storage" in done.stdout
    assert Registry(Storage.open(str(root))).list() == []
    assert not list(root.rglob("*.bin"))


def test_a_really_full_file_system(tmp_path: Path, folder: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        done = run_publisher(mount / "root", folder, "whole")
        assert done.returncode == 3
        assert "the disk is full" in done.stdout
        assert Registry(Storage.open(str(mount / "root"))).list() == []
        assert not list(mount.rglob("*.bin"))
    finally:
        subprocess.run(["umount", str(mount)], check=True)
