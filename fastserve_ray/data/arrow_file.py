"""Tables on disk as Arrow files without compression: written batch by batch, mapped into memory to be read.

Mapped pages belong to the kernel, which takes them back when memory is short, and all workers of a machine share
them. Even so a reader that walks through a large file would look as if it held all of it; ``forget`` returns the pages.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

Item = TypeVar("Item")

BATCH_BYTES = 2**20
"""About the size of a record batch."""


def write_tables(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write tables of one schema, one record batch for each that has rows; the number of rows.

    Without any row there is no file.
    """
    num_rows = 0
    with contextlib.ExitStack() as stack:
        writer: pa.RecordBatchFileWriter | None = None
        for table in tables:
            if not table.num_rows:
                continue
            if writer is None:
                sink = stack.enter_context(pa.OSFile(str(path), "wb"))
                writer = stack.enter_context(pa.ipc.new_file(sink, table.schema))
            writer.write_batch(table.combine_chunks().to_batches()[0])
            num_rows += table.num_rows
    return num_rows


def in_groups(items: Iterable[Item], size_of: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Items in groups of about ``BATCH_BYTES``: where a group ends depends on the items alone."""
    group: list[Item] = []
    size = 0
    for item in items:
        group.append(item)
        size += size_of(item)
        if size >= BATCH_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


class MappedBatches:
    """The record batches of a file, mapped into memory. Nothing is read before it is used.

    Raises:
        OSError, ArrowException: it is not there, or not an Arrow file.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._map))) as reader:
            self.schema = reader.schema
            self.batches: list[pa.RecordBatch] = [reader.get_batch(n) for n in range(reader.num_record_batches)]

    def forget(self) -> None:
        """Take the pages out of this process; views stay valid, and what is used again is mapped again."""
        self._map.madvise(mmap.MADV_DONTNEED)


def read_in_order(path: Path) -> Iterator[pa.RecordBatch]:
    """The record batches one after the other; each is mapped while it is used."""
    mapped = MappedBatches(path)
    for batch in mapped.batches:
        yield batch
        mapped.forget()
