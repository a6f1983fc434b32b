"""Which checkpoint a run that starts goes on from."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from fastserve_ray.artifacts.records import RunRecord, write_run
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.checkpoint.find import RAY_RECORD, delete_all, prepare, step_folder
from fastserve_ray.training.checkpoint.place import Place
from fastserve_ray.training.checkpoint.slices import WEIGHT, Slice, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SAME, OTHER = "1" * 64, "2" * 64


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


def checkpoint(storage: Storage, artifact: str, step: int, *, parts: int = 2, missing: int = 0) -> str:
    """Write one; the last ``missing`` parts are not there."""
    weight = torch.arange(4.0)
    folder = f"checkpoints/{artifact}/{step_folder(step)}"
    for rank in range(parts - missing):
        place = Place.whole(weight.shape).share(rank, parts)
        part = Snapshot.take([Slice(WEIGHT, "w", place, place.cut(weight))], {"step": step}, rank=rank, num_ranks=parts)
        part.write(lambda name: storage.open_output(f"{folder}/{name}"))
    return folder


def test_nothing_is_found_in_an_empty_storage(storage: Storage) -> None:
    assert prepare(storage, "train-a", SAME) is None


def test_the_latest_complete_checkpoint_of_an_earlier_try_is_found(storage: Storage) -> None:
    prepare(storage, "train-a", SAME)
    checkpoint(storage, "train-a", 5)
    latest = checkpoint(storage, "train-a", 10)
    torn = checkpoint(storage, "train-a", 15, missing=1)
    storage.write_bytes(f"checkpoints/train-a/{RAY_RECORD}", b'{"checkpoint_results": [')
    assert prepare(storage, "train-a", SAME) == latest
    assert storage.list_folders("checkpoints/train-a") == [step_folder(10)]
    assert not storage.exists(torn)
    assert not storage.exists(f"checkpoints/train-a/{RAY_RECORD}")


def test_a_run_that_is_spread_otherwise_finds_it_too(storage: Storage) -> None:
    for artifact, digest, step in (("train-a", SAME, 10), ("train-b", OTHER, 20), ("train-c", SAME, 5)):
        prepare(storage, artifact, digest)
        checkpoint(storage, artifact, step)
    assert prepare(storage, "train-d", SAME) == f"checkpoints/train-a/{step_folder(10)}"
    own = checkpoint(storage, "train-d", 10, parts=4)
    assert prepare(storage, "train-d", SAME) == own, "its own comes first"
    delete_all(storage, "train-d", SAME)
    assert storage.list_folders("checkpoints") == ["train-b"]


@pytest.fixture
def other_process() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize("is_here", [True, False])
def test_a_run_that_goes_on_keeps_its_checkpoints(storage: Storage, other_process: int, is_here: bool) -> None:
    """Of a process of this machine it is known that it lives."""
    prepare(storage, "train-a", SAME)
    found = checkpoint(storage, "train-a", 10)
    record = RunRecord(
        run_id="run-1",
        name="run",
        created="2026-01-01T00:00:00Z",
        stages={"train": "train-a"},
        process_id=other_process,
        host=socket.gethostname() if is_here else "elsewhere",
        fastserve_version="0",
    )
    write_run(storage, record)
    assert prepare(storage, "train-b", SAME) == (None if is_here else found)
    delete_all(storage, "train-b", SAME)
    assert storage.exists("checkpoints/train-a") is is_here


def test_a_run_of_this_process_is_no_other(storage: Storage) -> None:
    prepare(storage, "train-a", SAME)
    found = checkpoint(storage, "train-a", 10)
    record = RunRecord(
        run_id="run-1",
        name="run",
        created="2026-01-01T00:00:00Z",
        stages={"train": "train-a"},
        process_id=os.getpid(),
        host=socket.gethostname(),
        fastserve_version="0",
    )
    write_run(storage, record)
    assert prepare(storage, "train-b", SAME) == found
