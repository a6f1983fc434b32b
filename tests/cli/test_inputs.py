"""Texts for ``predict``, from every kind of file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from fastserve_ray.cli.inputs import read_texts
from fastserve_ray.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["the cat", "grüße, 東京"]


def write(folder: Path, name: str) -> str:
    path = folder / name
    if path.suffix == ".parquet":
        parquet.write_table(pa.table({"id": [1, 2], "sentence": TEXTS}), path)
    elif path.suffix == ".csv":
        path.write_text('id,sentence\n1,the cat\n2,"grüße, 東京"\n', encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text('{"id": 1, "sentence": "the cat"}\n"grüße, 東京"\n', encoding="utf-8")
    else:
        path.write_text("the cat\n\ngrüße, 東京\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_every_kind_of_file(tmp_path: Path, name: str) -> None:
    assert read_texts([], write(tmp_path, name), None) == TEXTS
    assert read_texts(["first"], write(tmp_path, name), None) == ["first", *TEXTS]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\ngrüße, 東京\n"))
    assert read_texts([], "-", None) == TEXTS


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_column_by_name(tmp_path: Path, name: str) -> None:
    assert read_texts([], write(tmp_path, name), "id") == ["1", "2"]
    with pytest.raises(DataError, match="sentence") as caught:
        read_texts([], write(tmp_path, name), "text")
    assert caught.value.key == "--column"


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UsageError, match="nothing to predict"):
        read_texts([], None, None)
    with pytest.raises(UsageError, match="empty"):
        read_texts([], str(tmp_path / "empty.txt"), None)


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "{oops"), ("a.jsonl", "[1]"), ("a.parquet", "no table")])
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError):
        read_texts([], str(tmp_path / name), None)
    with pytest.raises(DataError):
        read_texts([], str(tmp_path / "missing.txt"), None)
