"""The same promises on a path, a ``file://`` URI and an S3-compatible server."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.errors import StorageError
from fastserve_ray.storage.filesystem import Storage
from tests.s3_server import uri_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["path", "file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "path":
        return Storage.open(str(tmp_path / "root"))
    if request.param == "file":
        return Storage.open((tmp_path / "a root").as_uri())
    return Storage.open(request.getfixturevalue("s3_uri"))


def test_reads_back_what_was_written(storage: Storage) -> None:
    storage.write_bytes("a/b.bin", b"\x00\x01")
    storage.write_json("a/c.json", {"x": [1, None, "ü"]})
    assert storage.read_bytes("a/b.bin") == b"\x00\x01"
    assert storage.read_bytes("a/b.bin", offset=1) == b"\x01"
    assert storage.read_json("a/c.json") == {"x": [1, None, "ü"]}


def test_a_second_write_replaces_the_first(storage: Storage) -> None:
    storage.write_bytes("x", b"long first content")
    storage.write_bytes("x", b"second")
    assert storage.read_bytes("x") == b"second"


def test_lists_files_with_sizes_relative_to_the_root(storage: Storage) -> None:
    storage.write_bytes("a/deep/er.txt", b"123")
    storage.write_bytes("a/b.txt", b"")
    storage.write_bytes("c.txt", b"1")
    assert [(file.path, file.size) for file in storage.list_files()] == [
        ("a/b.txt", 0),
        ("a/deep/er.txt", 3),
        ("c.txt", 1),
    ]
    assert [file.path for file in storage.list_files("a", recursive=False)] == ["a/b.txt"]
    assert storage.list_folders() == ["a"]
    assert storage.list_folders("a") == ["deep"]


def test_an_absent_folder_is_empty(storage: Storage) -> None:
    assert storage.list_files("nothing") == []
    assert storage.list_folders("nothing") == []
    assert not storage.exists("nothing")


def test_deletes_files_and_folders_and_ignores_missing_ones(storage: Storage) -> None:
    storage.write_bytes("a/b", b"1")
    storage.write_bytes("a/c/d", b"1")
    storage.delete("a/b")
    assert storage.exists("a/c/d")
    storage.delete("a")
    storage.delete("a")
    assert storage.list_files() == []


def test_uploads_and_downloads_folders(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "one").write_bytes(b"1" * 100_000)
    (source / "sub" / "two").write_bytes(b"2")
    (source / ".half.0000.tmp").write_bytes(b"left by a killed writer")
    storage.upload(source, "put")
    storage.download("put", tmp_path / "back")
    found = {
        path.relative_to(tmp_path / "back").as_posix() for path in (tmp_path / "back").rglob("*") if path.is_file()
    }
    assert found == {"one", "sub/two"}
    assert (tmp_path / "back" / "one").read_bytes() == b"1" * 100_000


def test_uploads_and_downloads_one_file(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    storage.upload(tmp_path / "one", "x/y")
    storage.download("x/y", tmp_path / "new" / "z")
    assert (tmp_path / "new" / "z").read_bytes() == b"1"


def test_survives_pickling(storage: Storage) -> None:
    storage.write_bytes("x", b"1")
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.uri == storage.uri
    assert copy.read_bytes("x") == b"1"


def test_check_writable_leaves_nothing(storage: Storage) -> None:
    storage.check_writable()
    assert storage.list_files() == []


def test_a_missing_file_is_named_with_cause_and_key(storage: Storage) -> None:
    with pytest.raises(StorageError) as caught:
        storage.read_bytes("runs/none.json")
    assert "runs/none.json" in caught.value.what
    assert "it does not exist" in caught.value.what
    assert caught.value.key == "storage"


def test_damaged_json_is_named(storage: Storage) -> None:
    storage.write_bytes("x.json", b"{")
    with pytest.raises(StorageError, match=r"x\.json.* is not JSON"):
        storage.read_json("x.json")


def test_local_path_only_on_local_storage(storage: Storage) -> None:
    assert (storage.local_path("a") is not None) == storage.is_local


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage.open("./runs").uri == str(tmp_path / "runs")


def test_a_missing_bucket_is_said(s3_server: str) -> None:
    with pytest.raises(StorageError, match="the bucket does not exist"):
        Storage.open(uri_of(s3_server, "no-such-bucket/prefix")).write_bytes("x", b"1")


def test_an_unreachable_server_is_said_without_the_password() -> None:
    uri = "s3://user:hidden@bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    with pytest.raises(StorageError, match="cannot be reached") as caught:
        Storage.open(uri).read_bytes("x")
    assert "hidden" not in str(caught.value)


def test_an_unknown_scheme_is_said() -> None:
    with pytest.raises(StorageError, match="cannot open what://x"):
        Storage.open("what://x")


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        Storage.open(str(tmp_path / "taken")).check_writable()


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for a full disk: the write stops half way, as it would there."""
    script = """
import resource, sys
from fastserve_ray.errors import StorageError
from fastserve_ray.storage.filesystem import Storage
storage = Storage.open(sys.argv[1])
storage.write_bytes("x", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    storage.write_bytes("x", b"n" * 5000)
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "larger than this process may write" in done.stdout
    assert "change: storage" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_folder_may_appear_and_go_while_it_is_listed(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    is_over = threading.Event()

    def appear_and_go() -> None:
        while not is_over.is_set():
            (tmp_path / "a" / "b").mkdir(parents=True)
            (tmp_path / "a" / "b").rmdir()
            (tmp_path / "a").rmdir()

    thread = threading.Thread(target=appear_and_go)
    thread.start()
    try:
        for _ in range(300):
            assert storage.list_files() == []
            assert storage.list_files("a") == []
    finally:
        is_over.set()
        thread.join()
