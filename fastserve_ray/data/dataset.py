"""The prepared dataset: what the data stage publishes and training workers read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from fastserve_ray.data.arrow_file import MappedBatches, write_tables
from fastserve_ray.data.order import global_order
from fastserve_ray.errors import DataError

__all__ = ["DatasetInfo", "PreparedDataset", "Rows", "global_order"]

INFO_FILE = "dataset.json"
TRAIN_FILE = "train.arrow"
VALIDATION_FILE = "validation.arrow"
TOKENIZER_FOLDER = "tokenizer"
FORGET_EVERY = 32
"""Rows after which mapped pages are given back. A page fault maps up to 64 KiB around it, and a row lies in a few
places, so this bounds what a reader of random rows seems to hold by about ten MiB."""


class DatasetInfo(BaseModel):
    """Facts about a prepared dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    label_names: tuple[str, ...] | None
    """Class names by id; None for text generation."""
    num_train: int
    num_validation: int
    max_length: int
    pad_token_id: int
    vocab_size: int
    num_tokens: int
    """Tokens in the training rows."""
    cut_rows: int = 0
    """Conversations that are longer than a row."""
    skipped_rows: int = 0
    """Rows with nothing to learn: empty documents, conversations whose answers lie beyond ``max_length``."""
    bad_rows: int = 0
    """Rows that could not be used and were left out (``data.on_bad_rows: skip``); ``bad_rows.jsonl`` names them."""
    bad_files: int = 0
    """Files, or parts of files, that could not be read and were left out."""


class Rows(Sequence[dict[str, Any]]):
    """Rows of a prepared split, any of them at the cost of reading it.

    ``input_ids`` come as int32 arrays that share the file's memory.
    """

    def __init__(self, mapped: MappedBatches) -> None:
        self._mapped = mapped
        self._batches = [_Batch(batch) for batch in mapped.batches]
        self._ends = np.cumsum([batch.num_rows for batch in mapped.batches], dtype=np.int64)
        self._num_rows = int(self._ends[-1]) if len(self._ends) else 0
        self._num_read = 0
        mapped.forget()

    def __len__(self) -> int:
        return self._num_rows

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._num_rows))]
        if not -self._num_rows <= index < self._num_rows:
            raise IndexError(index)
        number = int(index) % self._num_rows
        self._num_read += 1
        if self._num_read % FORGET_EVERY == 0:
            self._mapped.forget()
        batch = int(np.searchsorted(self._ends, number, side="right"))
        return self._batches[batch].row(number - int(self._ends[batch - 1]) if batch else number)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(self._num_rows))


class _Batch:
    """A record batch as columns."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        ids = self._columns.pop("input_ids")
        self._tokens = ids.values.to_numpy(zero_copy_only=True)
        self._offsets = ids.offsets.to_numpy(zero_copy_only=True)

    def row(self, number: int) -> dict[str, Any]:
        row: dict[str, Any] = {name: column[number].as_py() for name, column in self._columns.items()}
        row["input_ids"] = self._tokens[self._offsets[number] : self._offsets[number + 1]]
        return row


class PreparedDataset:
    """Training and validation rows with their facts and tokenizer."""

    def __init__(self, folder: Path, info: DatasetInfo, train: Rows, validation: Rows) -> None:
        self.folder = folder
        self.info = info
        self.train = train
        self.validation = validation

    @classmethod
    def open(cls, folder: str | Path) -> PreparedDataset:
        """Map a prepared folder into memory.

        Raises:
            DataError: the folder does not hold a prepared dataset.
        """
        place = Path(folder)
        try:
            info = DatasetInfo.model_validate_json((place / INFO_FILE).read_text())
            train, validation = (Rows(MappedBatches(place / name)) for name in (TRAIN_FILE, VALIDATION_FILE))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"not a prepared dataset ({error})", value=str(place)) from error
        return cls(place, info, train, validation)

    @property
    def tokenizer_folder(self) -> Path:
        """The Hugging Face tokenizer that made the tokens."""
        return self.folder / TOKENIZER_FOLDER


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write the facts; the same facts give the same bytes."""
    (folder / INFO_FILE).write_text(json.dumps(info.model_dump(mode="json"), indent=2) + "\n")


def write_prepared(folder: Path, info: DatasetInfo, train: pa.Table, validation: pa.Table) -> None:
    """Write a dataset that is in memory."""
    for name, table in ((TRAIN_FILE, train), (VALIDATION_FILE, validation)):
        write_tables(folder / name, [table])
    write_info(folder, info)
