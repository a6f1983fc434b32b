"""Each format as users have it, and what is said when it is broken."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from fastserve_ray.data.bad_rows import BadRows
from fastserve_ray.data.files import COMPRESSED
from fastserve_ray.data.sources import SourceReader
from fastserve_ray.data.values import RawRows
from fastserve_ray.errors import DataError
from fastserve_ray.spec import Columns, FilesSource
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["good film", 'she said "no", twice', "zwei\nZeilen", "naïve — ✓"]
LABELS = [1, 0, 0, 1]


def read(
    path: Path | str,
    *,
    with_labels: bool = True,
    columns: Columns | None = None,
    bad: BadRows | None = None,
    **source: Any,
) -> RawRows:
    files = FilesSource(path=str(path), **source)
    reader = SourceReader(files, columns or Columns(), with_labels=with_labels, key="data.train", bad=bad or BadRows())
    chunks = [chunk for chunk in reader.chunks() if len(chunk) or chunk.num_empty]
    labels = pa.concat_arrays([chunk.labels for chunk in chunks]) if with_labels else None
    texts = pa.concat_arrays([chunk.texts for chunk in chunks])
    return RawRows(texts, labels, sum(chunk.num_empty for chunk in chunks))


def write_parquet(path: Path) -> Path:
    pq.write_table(pa.table({"label": LABELS, "text": TEXTS, "other": [0.5] * 4}), path, row_group_size=2)
    return path


def write_jsonl(path: Path) -> Path:
    lines = [json.dumps({"text": text, "label": label}) for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(lines) + "\n\n")
    return path


def write_csv(path: Path) -> Path:
    rows = ['"' + text.replace('"', '""') + f'",{label}' for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


WRITERS = {"a.parquet": write_parquet, "a.jsonl": write_jsonl, "a.ndjson": write_jsonl, "a.csv": write_csv}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    rows = read(WRITERS[name](tmp_path / name))
    assert rows.texts.to_pylist() == TEXTS
    assert rows.labels is not None
    assert rows.labels.to_pylist() == LABELS


@pytest.mark.parametrize("name", WRITERS)
def test_max_rows_takes_the_first(name: str, tmp_path: Path) -> None:
    assert read(WRITERS[name](tmp_path / name), max_rows=3).texts.to_pylist() == TEXTS[:3]


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_column_names_the_nearest(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'txet'") as caught:
        read(WRITERS[name](tmp_path / name), columns=Columns(text="txet"))
    assert caught.value.key == "data.columns.text"
    assert "did you mean 'text'?" in str(caught.value)
    with pytest.raises(DataError) as caught:
        read(WRITERS[name](tmp_path / name), columns=Columns(label="labels"))
    assert caught.value.key == "data.columns.label"
    assert caught.value.allowed is not None
    assert "label" in caught.value.allowed


def test_tabs_and_compression_are_told_by_the_ending(tmp_path: Path) -> None:
    tabbed = tmp_path / "a.tsv"
    tabbed.write_text("text\tlabel\none, two\tyes\n")
    assert read(tabbed).texts.to_pylist() == ["one, two"]
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(b'\xef\xbb\xbf{"text": "a", "label": true}\n'))
    rows = read(packed)
    assert rows.labels is not None
    assert rows.labels.to_pylist() == [True]


def test_a_folder_is_read_in_the_order_of_names_without_other_files(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"text": "second"}\n')
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n')
    (tmp_path / "README.md").write_text("not data")
    assert read(tmp_path, with_labels=False).texts.to_pylist() == ["first", "second"]
    assert read(tmp_path / "*.jsonl", with_labels=False, max_rows=1).texts.to_pylist() == ["first"]


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    assert len(read(f"file://{write_csv(tmp_path / 'a.csv')}")) == 4


def test_formats_are_not_mixed(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv")
    write_jsonl(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="several formats") as caught:
        read(tmp_path)
    assert caught.value.key == "data.train.format"
    assert read(tmp_path, format="csv").texts.to_pylist() == TEXTS


def test_an_unknown_ending_needs_a_format(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.data")
    with pytest.raises(DataError, match="ending"):
        read(path)
    assert len(read(path, format="csv")) == 4


def test_a_missing_file_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        read(tmp_path / "absent.csv")
    assert caught.value.key == "data.train.path"


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.parquet", b"PAR1 this is none"), ("a.arrow", b"this is none"), ("a.jsonl.gz", b"not gzip")],
)
def test_a_damaged_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        read(tmp_path / name)
    assert caught.value.key == "data.train.path"


def test_broken_json_lines_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": \n[1]\n\n7\n{}}\n')
    with pytest.raises(DataError, match="4 rows cannot be used") as caught:
        read(path)
    assert "line 2 is not JSON" in str(caught.value)
    assert "line 3 is a list" in str(caught.value)
    assert "line 5 is an integer" in str(caught.value)
    assert "and 1 more" in str(caught.value)


def test_csv_rows_of_another_width_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nfine,1\none, two,0\nfine,0\n")
    with pytest.raises(DataError, match="1 row cannot be used") as caught:
        read(path)
    assert "row 2 has 3 values, not 2" in str(caught.value)


def test_rows_without_text_or_label_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": " ", "label": 1}\n{"text": null, "label": 0}\n')
    with pytest.raises(DataError, match="2 rows cannot be used") as caught:
        read(path)
    assert "line 2 has no text" in str(caught.value)
    path.write_text('{"text": "a", "label": 1}\n\n{"text": "b"}\n')
    with pytest.raises(DataError, match="1 row cannot be used") as caught:
        read(path)
    assert "line 3 has no label" in str(caught.value)


def test_empty_documents_are_counted_where_no_label_hangs_on_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": ""}\n{"text": "b"}\n{"text": " \\n"}\n')
    rows = read(path, with_labels=False)
    assert rows.texts.to_pylist() == ["a", "b"]
    assert rows.num_empty == 2


def test_columns_of_the_wrong_type_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [1, 2], "label": [0, 1]}), path)
    with pytest.raises(DataError, match="holds no text") as caught:
        read(path)
    assert (caught.value.key, caught.value.value) == ("data.columns.text", "int64")
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0.5, 1.0]}), path)
    with pytest.raises(DataError, match="cannot be a label") as caught:
        read(path)
    assert caught.value.key == "data.columns.label"


def test_a_column_of_mixed_types_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": "1"}\n')
    with pytest.raises(DataError, match="1 row cannot be used") as caught:
        read(path)
    assert "line 2 has a label of another type than the rows before: '1' is text" in str(caught.value)


def test_files_agree_on_the_type_of_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,1\n")
    (tmp_path / "b.csv").write_text("text,label\nb,yes\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert "b.csv row 1 has a label that is not an integer as in the rows before" in str(caught.value)


def test_dictionary_columns_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode(), "label": ["x", "y", "x"]}), path)
    assert read(path).texts.to_pylist() == ["a", "b", "a"]


def test_no_rows_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="no rows"):
        read(tmp_path / "a.csv")
    (tmp_path / "b.txt").write_text(" \n\n")
    with pytest.raises(DataError, match="no rows"):
        read(tmp_path / "b.txt", with_labels=False)
    (tmp_path / "c.csv").write_text("")
    with pytest.raises(DataError, match=r"c\.csv"):
        read(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("one\ntwo\nthree\n", ["one", "two", "three"]),
        ("A title\r\n\r\nfirst line\r\nsecond line\r\n \r\n\r\nlast", ["A title", "first line\nsecond line", "last"]),
        ("\n\nonly\nlines\n\n", ["only", "lines"]),
    ],
)
def test_plain_text_has_paragraphs_or_lines(content: str, documents: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode())
    assert read(path, with_labels=False).texts.to_pylist() == documents


def test_text_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n\nna\xefve\n")
    with pytest.raises(DataError, match="1 row cannot be used") as caught:
        read(path, with_labels=False)
    assert "line 3 is not UTF-8" in str(caught.value)


def test_a_bucket_is_read_like_a_folder(s3_uri: str, tmp_path: Path) -> None:
    storage = Storage.open(s3_uri)
    storage.upload(write_jsonl(tmp_path / "a.jsonl"), "rows/a.jsonl")
    storage.upload(write_parquet(tmp_path / "a.parquet"), "a.parquet")
    place, _, options = s3_uri.partition("?")
    assert read(f"{place}/rows?{options}").texts.to_pylist() == TEXTS
    assert read(f"{place}/rows/*.jsonl?{options}").texts.to_pylist() == TEXTS
    assert read(f"{place}/a.parquet?{options}").texts.to_pylist() == TEXTS
    with pytest.raises(DataError) as caught:
        read(f"{place}/absent.csv?{options}")
    assert caught.value.key == "data.train.path"


def write_arrow(path: Path) -> Path:
    table = pa.table({"label": LABELS, "text": TEXTS})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return path


def write_stream(path: Path) -> Path:
    table = pa.table({"label": LABELS, "text": TEXTS})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return path


def write_feather(path: Path) -> Path:
    feather.write_feather(pa.table({"label": LABELS, "text": TEXTS}), path, compression="zstd")
    return path


ARROW_WRITERS = {
    "a.arrow": write_arrow,
    "a.arrows": write_stream,
    "b.arrow": write_stream,
    "a.ipc": write_arrow,
    "a.feather": write_feather,
}


@pytest.mark.parametrize("name", ARROW_WRITERS)
def test_arrow_files_and_streams_give_the_same_rows(name: str, tmp_path: Path) -> None:
    path = ARROW_WRITERS[name](tmp_path / name)
    rows = read(path)
    assert rows.texts.to_pylist() == TEXTS
    assert rows.labels is not None
    assert rows.labels.to_pylist() == LABELS
    assert read(path, max_rows=2).texts.to_pylist() == TEXTS[:2]
    with pytest.raises(DataError, match="has no column 'txet'"):
        read(path, columns=Columns(text="txet"))


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", write_jsonl), ("a.csv", write_csv), ("a.arrow", write_arrow), ("a.arrows", write_stream)],
)
@pytest.mark.parametrize("ending", ["gz", "zst", "bz2", "lz4", "br"])
def test_every_compression_is_read(name: str, write: Any, ending: str, tmp_path: Path) -> None:
    plain = write(tmp_path / name).read_bytes()
    path = tmp_path / f"{name}.{ending}"
    with pa.CompressedOutputStream(str(path), COMPRESSED[f".{ending}"]) as stream:
        stream.write(plain)
    assert read(path).texts.to_pylist() == TEXTS


@pytest.mark.parametrize(("name", "write"), [*WRITERS.items(), *ARROW_WRITERS.items()])
def test_globs_and_folders_of_every_format(name: str, write: Any, tmp_path: Path) -> None:
    ending = name.rpartition(".")[2]
    (tmp_path / "sub").mkdir()
    write(tmp_path / f"x.{ending}")
    write(tmp_path / "sub" / f"y.{ending}")
    assert read(tmp_path).texts.to_pylist() == TEXTS * 2
    assert read(tmp_path / f"*.{ending}").texts.to_pylist() == TEXTS
    assert read(tmp_path / "**" / f"*.{ending}").texts.to_pylist() == TEXTS * 2
    with pytest.raises(DataError, match="no such file") as caught:
        read(tmp_path / f"z*.{ending}")
    assert caught.value.key == "data.train.path"


def test_compressions_that_are_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.xz").write_bytes(b"-")
    choices: tuple[dict[str, Any], ...] = ({}, {"format": "jsonl"})
    for given in choices:
        with pytest.raises(DataError, match="this compression is not read") as caught:
            read(tmp_path / "a.jsonl.xz", **given)
        assert ".gz" in str(caught.value.allowed)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(DataError, match="compressed inside, not around"):
        read(tmp_path / "a.parquet.gz")


def test_every_format_is_read_from_a_bucket(s3_uri: str, tmp_path: Path) -> None:
    storage = Storage.open(s3_uri)
    place, _, options = s3_uri.partition("?")
    for name, write in (WRITERS | ARROW_WRITERS).items():
        storage.upload(write(tmp_path / name), f"formats/{name}")
        assert read(f"{place}/formats/{name}?{options}").texts.to_pylist() == TEXTS
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    storage.upload(tmp_path / "a.csv.gz", "formats/a.csv.gz")
    assert read(f"{place}/formats/*.gz?{options}").texts.to_pylist() == TEXTS
