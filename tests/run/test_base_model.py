"""Models at URIs become local folders, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.run.stages.base_model import local_copy
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_local_uri_is_used_in_place(tmp_path: Path) -> None:
    assert local_copy(tmp_path.as_uri()) == tmp_path


def test_a_remote_folder_is_downloaded_once_and_anew_when_it_changed(
    s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path))
    storage = Storage.open(s3_uri)
    storage.write_bytes("config.json", b"{}")
    storage.write_bytes("sub/weights", b"1")
    folder = local_copy(s3_uri)
    assert (folder / "sub" / "weights").read_bytes() == b"1"
    (folder / "mark").touch()
    assert (local_copy(s3_uri) / "mark").exists()
    storage.write_bytes("sub/weights", b"22")
    assert (local_copy(s3_uri) / "sub" / "weights").read_bytes() == b"22"
