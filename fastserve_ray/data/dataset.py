"""The prepared dataset: what the data stage publishes and training workers read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from fastserve_ray.data.order import global_order
from fastserve_ray.errors import DataError

__all__ = ["DatasetInfo", "PreparedDataset", "Rows", "global_order"]

INFO_FILE = "dataset.json"
TRAIN_FILE = "train.parquet"
VALIDATION_FILE = "validation.parquet"
TOKENIZER_FOLDER = "tokenizer"


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
    skipped_rows: int = 0


class Rows(Sequence[dict[str, Any]]):
    """Rows of a prepared table; ``input_ids`` come as int32 arrays that share the table's memory."""

    def __init__(self, table: pa.Table) -> None:
        self._columns = {name: table[name].combine_chunks() for name in table.column_names}
        ids = self._columns.pop("input_ids")
        self._tokens = ids.values.to_numpy(zero_copy_only=True)
        self._offsets = ids.offsets.to_numpy(zero_copy_only=True)
        self._num_rows: int = table.num_rows

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
        row: dict[str, Any] = {name: column[number].as_py() for name, column in self._columns.items()}
        row["input_ids"] = self._tokens[self._offsets[number] : self._offsets[number + 1]]
        return row

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(self._num_rows))


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
            tables = [pq.read_table(place / name, memory_map=True) for name in (TRAIN_FILE, VALIDATION_FILE)]
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"not a prepared dataset ({error})", value=str(place)) from error
        return cls(place, info, *[Rows(table) for table in tables])

    @property
    def tokenizer_folder(self) -> Path:
        """The Hugging Face tokenizer that made the tokens."""
        return self.folder / TOKENIZER_FOLDER


def write_prepared(folder: Path, info: DatasetInfo, train: pa.Table, validation: pa.Table) -> None:
    """Write both tables and the facts; the same input gives the same bytes."""
    for name, table in ((TRAIN_FILE, train), (VALIDATION_FILE, validation)):
        pq.write_table(table, folder / name, compression="zstd", row_group_size=65536)
    (folder / INFO_FILE).write_text(json.dumps(info.model_dump(mode="json"), indent=2) + "\n")
