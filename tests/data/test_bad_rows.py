"""Rows that cannot be used: found in every format, named with file and row, and fatal or left out."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastserve_ray.data.bad_rows import MAX_BEFORE_FAILING, REPORT_FILE, BadRows
from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.data.prepare import prepare_dataset
from fastserve_ray.data.sources import SourceReader
from fastserve_ray.errors import DataError
from fastserve_ray.spec import Columns, FilesSource
from fastserve_ray.spec.load import spec_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Rows = list[tuple[str, Any]]


def read(path: Path, bad: BadRows, *, with_labels: bool = True) -> Rows:
    reader = SourceReader(FilesSource(path=str(path)), Columns(), with_labels=with_labels, key="data.train", bad=bad)
    rows: Rows = []
    for chunk in reader.chunks():
        labels = [None] * len(chunk) if chunk.labels is None else chunk.labels.to_pylist()
        rows += zip(chunk.texts.to_pylist(), labels, strict=True)
    return rows


def json_lines(*rows: Any) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


GOOD = {"text": "fine", "label": 1}

CASES: dict[str, tuple[str, bytes, str, Rows]] = {
    "not JSON": ("a.jsonl", json_lines(GOOD, b'{"text": \n', GOOD), "line 2 is not JSON", [("fine", 1)] * 2),
    "JSON, no object": ("a.jsonl", json_lines(GOOD, [1]), "line 2 is a list", [("fine", 1)]),
    "JSON, not UTF-8": (
        "a.jsonl", json_lines(GOOD, b'{"text": "na\xefve", "label": 1}\n'), "line 2 is not UTF-8", [("fine", 1)],
    ),
    "JSON, number as text": (
        "a.jsonl", json_lines({"text": 7, "label": 1}, GOOD), "line 1 has an integer where text belongs", [("fine", 1)],
    ),
    "JSON, half a character": (
        "a.jsonl", json_lines(GOOD, b'{"text": "\\ud800", "label": 1}\n'), "line 2 has half of", [("fine", 1)],
    ),
    "JSON, null text": ("a.jsonl", json_lines(GOOD, {"text": None, "label": 1}), "line 2 has no text", [("fine", 1)]),
    "JSON, no label": ("a.jsonl", json_lines(GOOD, {"text": "b"}), "line 2 has no label", [("fine", 1)]),
    "JSON, label of another type": (
        "a.jsonl", json_lines(GOOD, {"text": "b", "label": "1"}), "line 2 has a label of another type", [("fine", 1)],
    ),
    "JSON, label that is no class": (
        "a.jsonl", json_lines(GOOD, {"text": "b", "label": 0.5}), "line 2 has a number that cannot be", [("fine", 1)],
    ),
    "JSON, label too large": (
        "a.jsonl", json_lines(GOOD, {"text": "b", "label": 2**63}), "line 2 has an integer that cannot", [("fine", 1)],
    ),
    "CSV, another width": (
        "a.csv", b"text,label\nfine,1\none, two,0\nfine,1\n", "row 2 has 3 values, not 2", [("fine", 1)] * 2,
    ),
    "CSV, not UTF-8": ("a.csv", b"text,label\nfine,1\nna\xefve,0\n", "row 2 is not UTF-8", [("fine", 1)]),
    "CSV, label not UTF-8": ("a.csv", b"text,label\nfine,a\nb,na\xefve\n", "row 2 has a label", [("fine", "a")]),
    "CSV, no text": ("a.csv", b"text,label\n,1\nfine,1\n", "row 1 has no text", [("fine", 1)]),
    "CSV, no label": ("a.csv", b"text,label\nfine,1\nb,\n", "row 2 has no label", [("fine", 1)]),
    "TSV, another width, then no label": (
        "a.tsv", b"text\tlabel\nx\nfine\t1\nb\t\n", "row 1 has 1 values, not 2", [("fine", 1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_bad_row_is_fatal_or_left_out(name: str, tmp_path: Path) -> None:
    file, content, problem, kept = CASES[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be used") as caught:
        read(path, BadRows("fail"))
    assert f"{path} {problem}" in str(caught.value)
    bad = BadRows("skip", tmp_path / REPORT_FILE)
    assert read(path, bad) == kept
    assert f"{path} {problem}" in bad.shown[0]
    reported = [json.loads(line) for line in (tmp_path / REPORT_FILE).read_text().splitlines()]
    assert len(reported) == bad.num_rows
    assert reported[0]["file"] == str(path)


def test_numbers_go_on_after_rows_that_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,1\nx,1,1\nb,1\ny\nc,\nd,1\n")
    bad = BadRows("skip")
    assert read(path, bad) == [("a", 1), ("b", 1), ("d", 1)]
    assert bad.num_rows == 3
    assert [place.removeprefix(str(path)) for place in bad.shown] == [
        " row 2 has 3 values, not 2", " row 4 has 1 values, not 2", " row 5 has no label",
    ]  # fmt: skip


def test_a_document_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\ntwo\nna\xefve\n\nthree\n")
    bad = BadRows("skip")
    assert read(path, bad, with_labels=False) == [("one", None), ("three", None)]
    assert "line 4 is not UTF-8" in bad.shown[0]
    with pytest.raises(DataError, match="1 row cannot be used"):
        read(path, BadRows("fail"), with_labels=False)


def write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=2, compression="none")


def write_arrow(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_stream(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


TYPED: dict[str, Callable[[Path, pa.Table], None]] = {
    "a.parquet": write_parquet,
    "a.arrow": write_arrow,
    "a.arrows": write_stream,
}


@pytest.mark.parametrize("name", TYPED)
def test_nulls_and_bytes_of_typed_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    texts = pa.array([b"a", None, b"na\xefve", b"d", b"e"], pa.binary())
    TYPED[name](path, pa.table({"text": texts.view(pa.string()), "label": pa.array([1, 1, 1, None, 0])}))
    with pytest.raises(DataError, match="3 rows cannot be used") as caught:
        read(path, BadRows("fail"))
    for problem in ("row 2 has no text", "row 3 is not UTF-8", "row 4 has no label"):
        assert f"{path} {problem}" in str(caught.value)
    bad = BadRows("skip")
    assert read(path, bad) == [("a", 1), ("e", 0)]
    assert bad.num_rows == 3


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_part_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    compression: Any = {"a.parquet": "zstd", "a.arrow": "zstd"}[name]
    texts = [f"{letter}" * 400 for letter in "abcdef"]
    table = pa.table({"text": texts, "label": [0, 1, 0, 1, 0, 1]})
    if name == "a.parquet":
        pq.write_table(table, path, row_group_size=2, compression=compression, use_dictionary=False)
        start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    else:
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_file(path, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=2)
        start = [at for at in range(path.stat().st_size) if path.read_bytes()[at:].startswith(b"\x28\xb5\x2f\xfd")][3]
    damaged = bytearray(path.read_bytes())
    damaged[start : start + 24] = b"\xff" * 24
    path.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match="is damaged"):
        read(path, BadRows("fail"))
    bad = BadRows("skip")
    assert [text[0] for text, _ in read(path, bad)] == ["a", "b", "e", "f"]
    assert bad.num_files == 1
    assert ("rows 3 to 4" if name == "a.parquet" else "record batch 2") in bad.shown[0]
    assert str(path) in bad.shown[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.parquet", b"PAR1 nothing"),
        ("b.arrow", b"nothing"),
        ("b.jsonl.gz", b"nothing"),
        ("b.jsonl.gz", gzip.compress(json_lines(*[GOOD] * 5000))[:-40]),
        ("b.jsonl", json_lines({"other": 1})),
        ("b.csv", b"sentence,label\na,1\n"),
        ("b.csv", b""),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read(name: str, content: bytes, tmp_path: Path) -> None:
    ending = name.removeprefix("b")
    if ending == ".parquet":
        write_parquet(tmp_path / "a.parquet", pa.table({"text": ["fine"], "label": [1]}))
    elif ending == ".arrow":
        write_arrow(tmp_path / "a.arrow", pa.table({"text": ["fine"], "label": [1]}))
    else:
        good = json_lines(GOOD) if "jsonl" in ending else b"text,label\nfine,1\n"
        (tmp_path / f"a{ending}").write_bytes(gzip.compress(good) if ending.endswith("gz") else good)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read(tmp_path, BadRows("fail"))
    bad = BadRows("skip")
    assert set(read(tmp_path, bad)) == {("fine", 1)}
    assert bad.num_files == 1
    assert name in bad.shown[0]


def test_one_column_of_a_wrong_type_is_a_bad_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", pa.table({"text": ["fine"], "label": [1]}))
    write_parquet(tmp_path / "b.parquet", pa.table({"text": [7], "label": [1]}))
    with pytest.raises(DataError, match="holds no text"):
        read(tmp_path, BadRows("fail"))
    bad = BadRows("skip")
    assert read(tmp_path, bad) == [("fine", 1)]
    assert "b.parquet holds no text" in bad.shown[0]


def test_a_file_that_cannot_be_reached_is_never_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(GOOD))
    (tmp_path / "b.jsonl").write_bytes(json_lines(GOOD))
    reader = SourceReader(
        FilesSource(path=str(tmp_path)), Columns(), with_labels=True, key="data.train", bad=BadRows("skip")
    )
    chunks = reader.chunks()
    next(chunks)
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(DataError, match="does not exist"):
        list(chunks)


def test_when_nothing_is_left_the_reason_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{\n{\n")
    with pytest.raises(DataError, match="2 rows cannot be used"):
        read(tmp_path, BadRows("skip"))
    (tmp_path / "a.jsonl").write_bytes(json_lines({"txet": "a"}))
    with pytest.raises(DataError, match="no column 'text'"):
        read(tmp_path, BadRows("skip"))


def test_a_file_full_of_errors_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(*[GOOD, b"{\n"] * 40_000))
    with pytest.raises(DataError, match="rows cannot be used") as caught:
        read(tmp_path, BadRows("fail"))
    assert MAX_BEFORE_FAILING <= int(caught.value.what.split()[0]) < 40_000


def test_the_prepared_dataset_counts_and_names_them(tmp_path: Path) -> None:
    rows = [{"text": f"line {number} of the text"} for number in range(40)]
    (tmp_path / "a.jsonl").write_bytes(json_lines(*rows[:20], b"{\n", *rows[20:], {"text": 3}))
    spec = {
        "name": "tiny",
        "model": {"config": {"model_type": "llama"}, "tokenizer": {"vocab_size": 300}},
        "data": {"train": {"path": str(tmp_path / "a.jsonl")}, "max_length": 16},
        "train": {},
    }
    warnings: list[str] = []
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match="2 rows cannot be used"):
        prepare_dataset(spec_from_dict(spec), out)
    (out / REPORT_FILE).unlink()
    skipping = spec | {"data": {**spec["data"], "on_bad_rows": "skip"}}  # type: ignore[dict-item]
    prepare_dataset(spec_from_dict(skipping), out, warn=warnings.append)
    assert PreparedDataset.open(out).info.bad_rows == 2
    entries = [json.loads(line) for line in (out / REPORT_FILE).read_text().splitlines()]
    assert [entry["line"] for entry in entries] == [21, 42]
    assert len(warnings) == 1
    assert "2 rows cannot be used" in warnings[0]
    assert "line 21 is not JSON" in warnings[0]
    assert sorted(path.name for path in out.iterdir()) == [
        REPORT_FILE, "dataset.json", "tokenizer", "train.arrow", "validation.arrow",
    ]  # fmt: skip
