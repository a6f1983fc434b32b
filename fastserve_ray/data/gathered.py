"""The rows of a dataset, read once from wherever they are into a local scratch file, and read from there in order.

Sources are read once because they may be remote, compressed and full of errors; splitting, labels, the tokenizer's
training and tokenizing each go over the rows. The cost is the size of the texts on the local disk while the stage runs.
In memory are a chunk, and a byte a row that says which split it is in (17 bytes a row while the draw is made).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastserve_ray.data.arrow_file import read_in_order, write_tables
from fastserve_ray.data.sources import SourceReader
from fastserve_ray.data.split import held_out
from fastserve_ray.data.values import RawRows
from fastserve_ray.spec.data import HeldOut

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from fastserve_ray.data.bad_rows import BadRows
    from fastserve_ray.data.meter import Meter
    from fastserve_ray.spec import DataSpec
    from fastserve_ray.spec.data import DataSource


@dataclass(frozen=True)
class Gathered:
    """Rows in a scratch file."""

    path: Path
    num_rows: int
    num_bytes: int
    """Of the texts."""
    num_empty: int
    """Empty documents that were left out."""
    label_names: tuple[str, ...] | None

    def chunks(self) -> Iterator[RawRows]:
        """All rows in order."""
        for batch in read_in_order(self.path) if self.num_rows else ():
            yield RawRows(batch.column("text"), batch.column("label") if "label" in batch.schema.names else None)


@dataclass(frozen=True)
class Split:
    """The training or the validation rows."""

    rows: Gathered
    mask: NDArray[np.bool_] | None = None
    """Which of ``rows``; None for all."""

    def __len__(self) -> int:
        return self.rows.num_rows if self.mask is None else int(np.count_nonzero(self.mask))

    def chunks(self) -> Iterator[RawRows]:
        """Its rows in order."""
        start = 0
        for chunk in self.rows.chunks():
            part = chunk if self.mask is None else chunk.where(self.mask[start : start + len(chunk)])
            start += len(chunk)
            if len(part):
                yield part

    def distinct_labels(self) -> pa.Array:
        """Each label once."""
        found = [pc.unique(chunk.labels) for chunk in self.chunks()]
        return pc.unique(pa.concat_arrays(found))


def gather_splits(
    data: DataSpec, scratch: Path, bad: BadRows, meter: Meter, *, with_labels: bool
) -> tuple[Split, Split]:
    """Training and validation rows; a seeded draw of whole documents holds out where validation has no source.

    Raises:
        DataError: the data cannot be read or used.
    """

    def gather(source: DataSource, key: str) -> Gathered:
        reader = SourceReader(source, data.columns, with_labels=with_labels, key=key, bad=bad)
        return _gather(reader, scratch / f"{key}.arrow", meter)

    rows = gather(data.train, "data.train")
    if not isinstance(data.validation, HeldOut):
        return Split(rows), Split(gather(data.validation, "data.validation"))
    train, _ = held_out(rows.num_rows, data.validation.fraction, data.seed)
    is_train: NDArray[np.bool_] = np.zeros(rows.num_rows, dtype=bool)
    is_train[train] = True
    return Split(rows, is_train), Split(rows, ~is_train)


def _gather(reader: SourceReader, path: Path, meter: Meter) -> Gathered:
    counts = _Counts()
    write_tables(path, counts.of(reader, meter))
    return Gathered(path, counts.num_rows, counts.num_bytes, counts.num_empty, reader.label_names)


class _Counts:
    """What is known once all rows went by."""

    def __init__(self) -> None:
        self.num_rows = self.num_bytes = self.num_empty = 0

    def of(self, reader: SourceReader, meter: Meter) -> Iterator[pa.Table]:
        """The chunks as tables."""
        for rows in reader.chunks():
            self.num_rows += len(rows)
            self.num_empty += rows.num_empty
            num_bytes = pc.sum(pc.binary_length(rows.texts)).as_py() or 0
            self.num_bytes += num_bytes
            meter.read(len(rows), num_bytes, reader.num_bytes_done, reader.num_bytes)
            yield pa.table({"text": rows.texts} | ({} if rows.labels is None else {"label": rows.labels}))
