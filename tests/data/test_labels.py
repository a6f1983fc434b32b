"""Labels to class ids."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastserve_ray.data.bad_rows import BadRows
from fastserve_ray.data.labels import make_label_map
from fastserve_ray.data.sources import SourceReader
from fastserve_ray.errors import DataError
from fastserve_ray.spec import Columns, FilesSource

if TYPE_CHECKING:
    from pathlib import Path


def array(*labels: Any) -> pa.Array:
    return pa.array(labels, pa.large_string() if isinstance(labels[0], str) else None)


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (("pos", "neg", "pos"), ("neg", "pos"), [1, 0, 1]),
        ((True, False), ("false", "true"), [1, 0]),
        ((2, 0, 1), ("0", "1", "2"), [2, 0, 1]),
        ((5, 1, 3), ("1", "3", "5"), [2, 0, 1]),
    ],
)
def test_labels_become_ids(labels: tuple[Any, ...], names: tuple[str, ...], ids: list[int]) -> None:
    found = make_label_map(array(*labels), None, None)
    assert found.names == names
    assert found.ids(array(*labels)).to_pylist() == ids


def test_integers_below_num_labels_are_ids_even_if_some_do_not_occur() -> None:
    found = make_label_map(array(0, 3), None, 5)
    assert found.names == ("0", "1", "2", "3", "4")
    assert found.ids(array(3)).to_pylist() == [3]


def test_names_that_the_file_carries_are_used() -> None:
    found = make_label_map(array(0, 1, 1), ("negative", "neutral", "positive"), None)
    assert found.names == ("negative", "neutral", "positive")


def test_names_of_hugging_face_datasets_are_read(tmp_path: Path) -> None:
    feature = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    described = json.dumps({"info": {"features": {"label": feature}}})
    table = pa.table({"text": ["a", "b"], "label": [1, 0]}).replace_schema_metadata({"huggingface": described})
    pq.write_table(table, tmp_path / "a.parquet")
    source = FilesSource(path=str(tmp_path / "a.parquet"))
    reader = SourceReader(source, Columns(), with_labels=True, key="data.train", bad=BadRows())
    (rows,) = reader.chunks()
    found = make_label_map(rows.labels, reader.label_names, None)
    assert found.names == ("neg", "pos")


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="same label") as caught:
        make_label_map(array("a", "a"), None, None)
    assert caught.value.key == "data.columns.label"


def test_num_labels_must_agree() -> None:
    with pytest.raises(DataError, match="3 different labels") as caught:
        make_label_map(array("a", "b", "c"), None, 2)
    assert caught.value.key == "model.num_labels"
    with pytest.raises(DataError, match="different labels"):
        make_label_map(array(0, 1, 2), None, 2)


def test_negative_labels_are_refused() -> None:
    with pytest.raises(DataError, match="negative"):
        make_label_map(array(-1, 0, 1), None, None)


def test_validation_labels_must_be_known_and_of_the_same_type() -> None:
    found = make_label_map(array("a", "b"), None, None)
    with pytest.raises(DataError, match="no training row has") as caught:
        found.ids(array("a", "c", "d"))
    assert (caught.value.value, caught.value.allowed) == ("c, d", "a, b")
    with pytest.raises(DataError, match="another type"):
        found.ids(array(0, 1))
