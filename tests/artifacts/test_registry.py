"""Publish, find, fetch, resolve; on local storage and on S3."""

from __future__ import annotations

import pickle
import threading
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.artifacts.records import RunRecord, write_run
from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.errors import ArtifactError
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.artifacts.manifest import Manifest

DIGEST = "0123456789abcdef" * 4


@pytest.fixture(params=["local", "s3"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path / "cache"))
    uri = str(tmp_path / "root") if request.param == "local" else request.getfixturevalue("s3_uri")
    return Registry(Storage.open(uri))


def write_folder(folder: Path, text: str = "weights") -> Path:
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_text(text)
    (folder / "sub" / "vocab.txt").write_text("a b c")
    return folder


def publish(registry: Registry, folder: Path, *, stage: str = "train", digest: str = DIGEST) -> Manifest:
    return registry.publish(
        folder,
        kind="model",
        stage=stage,
        digest=digest,
        parents={"data": "data-1"},
        spec={"train": {"seed": 0}},
        metrics={"eval_loss": 1.5},
        info={"task": "text-generation"},
    )


def test_publishes_all_files_and_finds_them_by_digest(registry: Registry, tmp_path: Path) -> None:
    assert registry.find("train", DIGEST) is None
    manifest = publish(registry, write_folder(tmp_path / "work"))
    assert manifest.id == "train-0123456789abcdef"
    assert [entry.path for entry in manifest.files] == ["model.bin", "sub/vocab.txt"]
    assert registry.find("train", DIGEST) == manifest
    assert registry.list() == [manifest]
    assert registry.get(manifest.id).metrics == {"eval_loss": 1.5}


def test_fetch_gives_a_local_folder_with_the_content(registry: Registry, tmp_path: Path) -> None:
    manifest = publish(registry, write_folder(tmp_path / "work"))
    folder = registry.fetch(manifest.id)
    assert (folder / "model.bin").read_text() == "weights"
    assert (folder / "sub" / "vocab.txt").read_text() == "a b c"
    assert (folder / "manifest.json").is_file()
    assert registry.fetch(manifest.id) == folder
    assert registry.verify(manifest.id) == manifest


def test_the_first_publisher_wins(registry: Registry, tmp_path: Path) -> None:
    first = publish(registry, write_folder(tmp_path / "one", "first"))
    second = publish(registry, write_folder(tmp_path / "two", "second"))
    assert second == first
    assert (registry.fetch(first.id) / "model.bin").read_text() == "first"


def test_files_of_an_unfinished_publish_do_not_show(registry: Registry, tmp_path: Path) -> None:
    registry.storage.write_bytes("artifacts/train-0123456789abcdef/half.bin", b"left over")
    assert registry.find("train", DIGEST) is None
    assert registry.list() == []
    manifest = publish(registry, write_folder(tmp_path / "work"))
    paths = {file.path.rpartition("/")[2] for file in registry.storage.list_files(f"artifacts/{manifest.id}")}
    assert paths == {"model.bin", "vocab.txt", "manifest.json"}


def test_a_changed_byte_is_found(registry: Registry, tmp_path: Path) -> None:
    manifest = publish(registry, write_folder(tmp_path / "work"))
    registry.storage.write_bytes(f"artifacts/{manifest.id}/model.bin", b"WEIGHTS")
    with pytest.raises(ArtifactError, match=r"model\.bin has another sha256"):
        registry.verify(manifest.id)


def test_a_missing_file_is_found_by_fetch(tmp_path: Path) -> None:
    registry = Registry(Storage.open(str(tmp_path / "root")))
    manifest = publish(registry, write_folder(tmp_path / "work"))
    registry.storage.delete(f"artifacts/{manifest.id}/model.bin")
    with pytest.raises(ArtifactError, match=r"model\.bin is missing"):
        registry.fetch(manifest.id)


def test_a_damaged_download_is_refused_and_does_not_stay(s3_uri: str, tmp_path: Path) -> None:
    registry = Registry(Storage.open(s3_uri))
    manifest = publish(registry, write_folder(tmp_path / "work"))
    registry.storage.write_bytes(f"artifacts/{manifest.id}/model.bin", b"WEIGHTS")
    with pytest.raises(ArtifactError, match="another sha256"):
        registry.fetch(manifest.id)
    registry.storage.write_bytes(f"artifacts/{manifest.id}/model.bin", b"weights")
    assert (registry.fetch(manifest.id) / "model.bin").read_text() == "weights"


def test_an_unknown_id_lists_what_is_there(registry: Registry, tmp_path: Path) -> None:
    manifest = publish(registry, write_folder(tmp_path / "work"))
    with pytest.raises(ArtifactError, match="did you mean") as caught:
        registry.get("train-0123456789abcdee")
    assert caught.value.allowed == manifest.id


def test_digests_that_share_the_id_are_told_apart(registry: Registry, tmp_path: Path) -> None:
    publish(registry, write_folder(tmp_path / "work"))
    with pytest.raises(ArtifactError, match="another digest"):
        registry.find("train", DIGEST[:16] + "f" * 48)


def test_a_damaged_manifest_is_named(registry: Registry) -> None:
    registry.storage.write_bytes("artifacts/train-0123456789abcdef/manifest.json", b'{"format": 1}')
    with pytest.raises(ArtifactError, match="is not a manifest"):
        registry.find("train", DIGEST)


def test_a_manifest_in_the_folder_is_not_content(registry: Registry, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "work")
    (folder / "manifest.json").write_text("{}")
    assert "manifest.json" not in {entry.path for entry in publish(registry, folder).files}


def record(run_id: str, created: str, stages: dict[str, str]) -> RunRecord:
    return RunRecord(
        run_id=run_id,
        name="tiny",
        created=created,
        stages=stages,
        process_id=1,
        host="here",
        fastserve_version="0",
    )


def test_resolves_references(registry: Registry, tmp_path: Path) -> None:
    old = publish(registry, write_folder(tmp_path / "work"), digest="a" * 64)
    new = publish(registry, tmp_path / "work", digest="b" * 64)
    write_run(registry.storage, record("tiny-1", "2026-01-01", {"train": old.id}))
    write_run(registry.storage, record("tiny-2", "2026-01-02", {"train": new.id}))
    write_run(registry.storage, record("tiny-3", "2026-01-03", {"train": "train-unpublished"}))
    assert registry.resolve(f"artifact:{old.id}") == old
    assert registry.resolve(old.id) == old
    assert registry.resolve("tiny@train") == new
    assert registry.resolve("tiny-1@train") == old
    with pytest.raises(ArtifactError) as caught:
        registry.resolve("tiny@compress")
    assert caught.value.allowed == "tiny@train"


def test_survives_pickling(registry: Registry, tmp_path: Path) -> None:
    manifest = publish(registry, write_folder(tmp_path / "work"))
    assert pickle.loads(pickle.dumps(registry)).get(manifest.id) == manifest


def test_many_publishers_at_once_end_with_one_whole_artifact(tmp_path: Path) -> None:
    registry = Registry(Storage.open(str(tmp_path / "root")))
    folders = [write_folder(tmp_path / str(number), f"weights {number}") for number in range(8)]
    results: list[Manifest] = []
    threads = [threading.Thread(target=lambda f=folder: results.append(publish(registry, f))) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({manifest.model_dump_json() for manifest in results}) == 1
    registry.verify(results[0].id)
    assert [path.name for path in (tmp_path / "root" / "artifacts").iterdir()] != []
    assert not [path for path in (tmp_path / "root" / "artifacts" / ".staging").iterdir() if path.name != "lock"]
