"""Rows of a source, a chunk at a time, checked. Nothing is left out in silence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from fastserve_ray.data.bad_rows import BadRows, UnusableFileError
from fastserve_ray.data.files import SourceFile, find_files
from fastserve_ray.data.python_docs import python_docs
from fastserve_ray.data.readers.table import READERS, FileRows, Reader
from fastserve_ray.data.values import Checker, RawRows
from fastserve_ray.errors import DataError
from fastserve_ray.spec.data import PythonDocsSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.data import Columns, DataSource, FilesSource


class SourceReader:
    """Reads a source once, in the order of the files' names and of the rows in them.

    Args:
        source: where the rows are.
        columns: which columns hold what.
        with_labels: whether each row needs a label.
        key: of the source in the spec, for messages: ``data.train`` or ``data.validation``.
        bad: takes what cannot be used.
    """

    def __init__(self, source: DataSource, columns: Columns, *, with_labels: bool, key: str, bad: BadRows) -> None:
        self._source = source
        self._columns = _roles(columns, with_labels=with_labels)
        self._key = key
        self._bad = bad
        self._checker = Checker(bad, with_labels=with_labels, is_chat=bool(columns.chat))
        self._first_error: DataError | None = None
        self.label_names: tuple[str, ...] | None = None
        """Names of integer labels, where the files carry them; known once rows came."""
        self.num_bytes = 0
        """Of all files, as they lie in the store."""
        self._num_bytes_done = 0
        self._file: SourceFile | None = None
        self._left = source.max_rows

    def chunks(self) -> Iterator[RawRows]:
        """The rows.

        Raises:
            DataError: nothing is there, it cannot be read, a column is missing or has the wrong type, or rows are bad
                and the mode is ``fail``.
        """
        if isinstance(self._source, PythonDocsSource):
            yield RawRows(pa.array(python_docs(self._source.max_rows), pa.large_string()))
            return
        files = find_files(self._source, self._key)
        self.num_bytes = sum(file.size for file in files)
        num_rows = 0
        for file in files:
            self._file = file
            for rows in self._one_file(file):
                num_rows += len(rows)
                yield rows
            self._bad.raise_if_fatal(is_end_of_file=True)
            self._num_bytes_done, self._file = self._num_bytes_done + file.size, None
            if self._left == 0:
                break
        if not num_rows:
            raise self._no_rows(self._source)

    @property
    def num_bytes_done(self) -> int:
        """Read so far, of ``num_bytes``."""
        return self._num_bytes_done + (0 if self._file is None else self._file.position.num_bytes)

    def _one_file(self, file: SourceFile) -> Iterator[RawRows]:
        """The rows of a file; one that cannot be used, or not to its end, is a bad part."""
        reader: Reader = READERS.load(file.format)
        num_rows = 0
        try:
            for rows in reader(file, self._columns, self._bad, self._key):
                taken = self._take(rows)
                yield self._checker.check(taken)
                self._bad.raise_if_fatal(is_end_of_file=False)
                num_rows += taken.table.num_rows
                self.label_names = self.label_names or rows.label_names
                if self._left == 0:
                    return
        except UnusableFileError as error:
            self._first_error = self._first_error or error
            self._bad.add_part(file.uri, f"after row {num_rows}" if num_rows else "", 0, error)

    def _take(self, rows: FileRows) -> FileRows:
        """As many as ``max_rows`` leaves."""
        if self._left is None:
            return rows
        table = rows.table.slice(0, self._left)
        self._left -= table.num_rows
        return replace(rows, table=table, numbers=rows.numbers[: table.num_rows])

    def _no_rows(self, source: FilesSource) -> DataError:
        if self._first_error is not None:
            return self._first_error
        if not self._bad.is_empty:
            return self._bad.as_error()
        allowed = "at least one row with text"
        return DataError("there are no rows", value=source.path, allowed=allowed, key=f"{self._key}.path")


def _roles(columns: Columns, *, with_labels: bool) -> dict[str, str]:
    """The columns to read by what they hold."""
    if columns.chat:
        roles = ("messages",) if len(columns.chat) == 1 else ("prompt", "completion", "input")
        return dict(zip(roles, columns.chat, strict=False))
    return {"text": columns.text} | ({"label": columns.label} if with_labels else {})
