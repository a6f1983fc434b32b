"""Records of checkpoints that a kill has damaged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.snapshot import SNAPSHOT, drop_damaged_checkpoints

if TYPE_CHECKING:
    from pathlib import Path

SOUND = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "step-00000005"}]})


@pytest.mark.parametrize(
    ("record", "has_checkpoint", "stays"),
    [(SOUND, True, True), (SOUND, False, False), (SOUND[:-5], True, False), ("", True, False), ("[]", True, False)],
)
def test_only_a_sound_record_stays(tmp_path: Path, record: str, has_checkpoint: bool, stays: bool) -> None:
    storage = Storage.open(str(tmp_path))
    storage.write_bytes(f"checkpoints/train-1/{SNAPSHOT}", record.encode())
    if has_checkpoint:
        storage.write_bytes("checkpoints/train-1/step-00000005/state.pt", b"")
    storage.write_bytes(f"checkpoints/train-2/{SNAPSHOT}", b"of another run")
    drop_damaged_checkpoints(storage, "train-1")
    assert storage.exists("checkpoints/train-1") is stays
    assert storage.exists("checkpoints/train-2")


def test_no_record_is_fine(tmp_path: Path) -> None:
    drop_damaged_checkpoints(Storage.open(str(tmp_path)), "train-1")
    assert not list(tmp_path.iterdir())
