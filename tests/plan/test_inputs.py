from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import pytest

from fastserve_ray.errors import DataError, SpecError
from fastserve_ray.plan.fingerprint import fingerprint_inputs
from fastserve_ray.plan.inputs import list_input, reference_kind
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.storage.filesystem import Storage
from tests.spec.files import full


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.csv", "a.csv", "c.txt", ".hidden.csv", "_meta.csv", "deep/d.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("text,label\nx,1\n")
    return tmp_path


def names(path: str, folder: Path) -> list[str]:
    return [str(Path(file.uri.removeprefix("file://")).relative_to(folder)) for file in list_input(path)]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_files_folders_and_globs(folder: Path, scheme: str) -> None:
    assert names(f"{scheme}{folder}/a.csv", folder) == ["a.csv"]
    assert names(f"{scheme}{folder}/_meta.csv", folder) == ["_meta.csv"]
    assert names(f"{scheme}{folder}/*.csv", folder) == ["_meta.csv", "a.csv", "b.csv"]
    assert names(f"{scheme}{folder}/**/*.csv", folder) == ["_meta.csv", "a.csv", "b.csv", "deep/d.csv"]
    assert names(f"{scheme}{folder}", folder) == ["a.csv", "b.csv", "c.txt", "deep/d.csv"]


def test_files_in_an_object_store(s3_uri: str) -> None:
    storage = Storage.open(s3_uri)
    for name in ("a.csv", "b.csv", "c.txt", "_meta.csv", "deep/d.csv"):
        storage.write_bytes(name, b"text")
    place, _, options = s3_uri.partition("?")

    def names(path: str) -> list[str]:
        return [file.uri.removeprefix(f"{place}/") for file in list_input(f"{place}{path}?{options}")]

    assert names("/a.csv") == ["a.csv"]
    assert names("") == ["a.csv", "b.csv", "c.txt", "deep/d.csv"]
    assert names("/*.csv") == ["_meta.csv", "a.csv", "b.csv"]
    assert names("/**/*.csv") == ["_meta.csv", "a.csv", "b.csv", "deep/d.csv"]
    assert names("/[ab].csv") == ["a.csv", "b.csv"]
    (file,) = list_input(f"{place}/a.csv?{options}")
    assert file.size == 4
    assert file.modified
    with pytest.raises(DataError, match="no such file"):
        names("/absent.csv")


def test_a_name_with_brackets_is_a_name_if_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "a[1].csv").write_text("x")
    assert names(f"{tmp_path}/a[1].csv", tmp_path) == ["a[1].csv"]


@pytest.mark.parametrize("path", ["absent.csv", "*.parquet", "empty"])
def test_nothing_there_is_an_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no such file"):
        list_input(str(tmp_path / path))


def test_a_uri_of_no_known_kind_is_an_error() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        list_input("gopher://host/x.csv")


def test_references(tmp_path: Path) -> None:
    assert reference_kind(str(tmp_path)) == "folder"
    assert reference_kind("distilbert-base-uncased") == "hub"
    assert reference_kind("org/model.v2") == "hub"
    assert reference_kind("s3://bucket/model") == "uri"
    assert reference_kind("artifact:train-0123456789abcdef") == "artifact"
    assert reference_kind("quickstart@train") == "artifact"
    assert reference_kind(str(tmp_path / "absent")) is None
    assert reference_kind("./absent/model") is None


def spec_with(data: dict[str, Any]) -> Any:
    return spec_from_dict({"name": "a", "serve": {}, **data})


def test_python_docs_are_known_by_the_version_of_python() -> None:
    fingerprints = fingerprint_inputs(spec_from_dict(full()))
    assert fingerprints == {"data.train": {"python": platform.python_version()}, "data.validation": None}


def test_files_are_known_by_size_and_time(folder: Path) -> None:
    spec = spec_with({"model": {"base": "org/model", "revision": "v1"}, "data": {"train": {"path": f"{folder}/a.csv"}}})
    before = fingerprint_inputs(spec)
    assert before["model.base"] == {"hub": "org/model", "revision": "v1"}
    assert fingerprint_inputs(spec) == before
    os.utime(folder / "a.csv", ns=(1, 1))
    assert fingerprint_inputs(spec) != before


def test_every_missing_input_is_named_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "x.txt").write_text("x")
    spec = spec_with(
        {
            "model": {"base": str(tmp_path / "nothing")},
            "data": {"train": {"path": str(tmp_path / "a.csv")}, "validation": {"path": str(tmp_path / "*.csv")}},
        }
    )
    with pytest.raises(SpecError) as caught:
        fingerprint_inputs(spec)
    found = {problem.key: problem.message for problem in caught.value.problems}
    assert set(found) == {"data.train.path", "data.validation.path", "model.base"}
    assert "config.json" in found["model.base"]


def test_a_folder_that_is_not_there_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such folder"):
        fingerprint_inputs(spec_with({"model": {"base": str(tmp_path / "absent")}}))


def test_an_artifact_that_is_not_published(tmp_path: Path) -> None:
    spec = spec_with({"model": {"base": "some-run@train"}, "storage": str(tmp_path)})
    with pytest.raises(SpecError, match=r"model\.base|storage"):
        fingerprint_inputs(spec)
