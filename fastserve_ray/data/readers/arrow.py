"""Arrow: the file format (Feather's second version is the same) and the stream format, told by their first bytes.

A local file is mapped into memory, so that a large record batch is not read at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import feather

from fastserve_ray.data.bad_rows import UnusableFileError
from fastserve_ray.data.files import file_errors
from fastserve_ray.data.readers.table import FileRows, numbered_from, require_columns, rows_in_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fastserve_ray.data.bad_rows import BadRows
    from fastserve_ray.data.files import SourceFile

_FILE_MAGIC, _OLD_FEATHER_MAGIC = b"ARROW1", b"FEA1"


def read(file: SourceFile, columns: Mapping[str, str], bad: BadRows, key: str) -> Iterator[FileRows]:
    """A record batch of the file format that cannot be read is a part of the file that is bad; in the stream format
    nothing after it can be found."""
    first = 1
    for table in _ArrowFile(file, columns, bad, key).tables():
        size = rows_in_chunk(table.num_rows, table.nbytes)
        for start in range(0, table.num_rows, size):
            part = table.slice(start, size)
            yield FileRows(file.uri, part, numbered_from(first + start, part.num_rows))
        first += table.num_rows


class _ArrowFile:
    """The wanted columns of a file, as they lie in it."""

    def __init__(self, file: SourceFile, columns: Mapping[str, str], bad: BadRows, key: str) -> None:
        self._file = file
        self._columns = columns
        self._names = list(columns.values())
        self._bad = bad
        self._key = key

    def tables(self) -> Iterator[pa.Table]:
        """One for each record batch."""
        with self._file.open_stream(self._key) as stream:
            magic = stream.read(len(_FILE_MAGIC))
        if magic.startswith(_OLD_FEATHER_MAGIC):
            return self._of_old_feather()
        if magic == _FILE_MAGIC and not self._file.is_compressed:
            return self._of_file()
        return self._of_stream(has_magic=magic == _FILE_MAGIC)

    def _of_old_feather(self) -> Iterator[pa.Table]:
        with self._file.open_seekable(self._key) as stream:
            table = feather.read_table(stream)
            require_columns(self._columns, table.column_names, self._file.uri)
            yield table.select(self._names)

    def _of_file(self) -> Iterator[pa.Table]:
        with self._file.open_seekable(self._key, use_mmap=True) as stream, pa.ipc.open_file(stream) as reader:
            require_columns(self._columns, reader.schema.names, self._file.uri)
            for number in range(reader.num_record_batches):
                try:
                    with file_errors(self._file.uri, self._key):
                        batch = reader.get_batch(number)
                        batch.validate()
                except UnusableFileError as error:
                    self._bad.add_part(self._file.uri, f"record batch {number + 1}", 0, error)
                else:
                    yield pa.Table.from_batches([batch]).select(self._names)

    def _of_stream(self, *, has_magic: bool) -> Iterator[pa.Table]:
        with self._file.open_stream(self._key) as stream:
            if has_magic:
                stream.read(8)  # a file is a stream between magic bytes, padded to 8, and a footer
            reader = pa.ipc.open_stream(stream)
            require_columns(self._columns, reader.schema.names, self._file.uri)
            for batch in reader:
                yield pa.Table.from_batches([batch]).select(self._names)
