"""Which files a source means, in which format, and how to open them wherever they are."""

from __future__ import annotations

import codecs
import io
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import fs

from fastserve_ray.data.bad_rows import UnusableFileError
from fastserve_ray.errors import DataError
from fastserve_ray.plan.inputs import is_uri, list_input
from fastserve_ray.storage.causes import explain, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.data import FilesSource

ENDINGS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".text": "text",
}
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4", ".br": "brotli"}
BUFFER_BYTES = 2**20
"""Asked of a store at a time."""
NOT_READ = frozenset({".zip", ".xz", ".7z", ".rar", ".tar", ".tgz", ".lzma", ".sz", ".snappy", ".z"})
"""Compressions and archives that pyarrow does not read as a stream."""


class Position:
    """How far a file is read."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self.stream: pa.NativeFile | None = None
        """The bytes as they lie in the store, while they are read from the start."""

    @property
    def num_bytes(self) -> int:
        """Read so far."""
        if self.stream is not None and not self.stream.closed:
            self._num_bytes = self.stream.tell()
        return self._num_bytes

    def move_to(self, num_bytes: int) -> None:
        """For a format that is not read from the start."""
        self._num_bytes = num_bytes


@dataclass(frozen=True)
class SourceFile:
    """One file and how to read it."""

    uri: str
    format: str
    size: int = 0
    """Bytes in the store."""
    position: Position = field(default_factory=Position, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Last part of the path, without the ending of a compression."""
        name = self.uri.partition("?")[0].rpartition("/")[2]
        stem, dot, ending = name.rpartition(".")
        return stem if f".{ending.lower()}" in COMPRESSED and dot else name

    @property
    def is_compressed(self) -> bool:
        """Whether the ending says so."""
        return self._compression is not None

    @property
    def _compression(self) -> str | None:
        return COMPRESSED.get(_ending(self.uri.partition("?")[0]))

    @contextmanager
    def open_seekable(self, key: str, *, use_mmap: bool = False) -> Iterator[pa.NativeFile]:
        """The bytes as they are.

        Args:
            use_mmap: map a local file, for formats that are read without decoding.
        """
        with file_errors(self.uri, key):
            filesystem, path = _locate(self.uri, use_mmap=use_mmap)
            with filesystem.open_input_file(path) as stream:
                yield stream

    @contextmanager
    def open_stream(self, key: str) -> Iterator[pa.NativeFile]:
        """The bytes from the start, decompressed when the ending says so."""
        with file_errors(self.uri, key):
            filesystem, path = _locate(self.uri)
            with filesystem.open_input_file(path) as raw:
                self.position.stream = raw
                stream = pa.BufferedInputStream(raw, BUFFER_BYTES)
                yield pa.CompressedInputStream(stream, self._compression) if self._compression else stream

    @contextmanager
    def open_lines(self, key: str) -> Iterator[Iterator[bytes]]:
        """Lines with their ends; a byte order mark is left out."""
        with self.open_stream(key) as stream:
            yield _without_mark(io.BufferedReader(stream, 2**20))


def find_files(source: FilesSource, key: str) -> list[SourceFile]:
    """The files of a source in order of their names, all of one format.

    In a folder or glob, files of other endings are left out when ``format`` is given or some files have a known one.

    Raises:
        DataError: nothing is there, or the format is unknown or mixed.
    """
    try:
        listed = list_input(source.path)
    except DataError as error:
        error.key = f"{key}.path"
        raise
    sizes = {_with_options(file.uri, source.path): file.size for file in listed}
    formats = {uri: format_of(uri) for uri in sizes}
    if source.format is not None:
        chosen = [uri for uri, name in formats.items() if name == source.format] or list(sizes)
        return [_readable(SourceFile(uri, source.format, sizes[uri]), key) for uri in chosen]
    known = sorted({name for name in formats.values() if name is not None})
    if len(known) != 1:
        for uri in sizes if not known else ():
            _readable(SourceFile(uri, ""), key)
        raise _unclear_format(source.path, known, list(sizes), key)
    return [_readable(SourceFile(uri, known[0], sizes[uri]), key) for uri, name in formats.items() if name]


def format_of(uri: str) -> str | None:
    """The format that a file's ending says; None when it says nothing."""
    path = SourceFile(uri, "").name
    return ENDINGS.get("." + path.rpartition(".")[2].lower())


def _readable(file: SourceFile, key: str) -> SourceFile:
    """The file, if its compression can be read."""
    ending = _ending(file.uri.partition("?")[0])
    is_packed_parquet = file.format == "parquet" and file.is_compressed
    if ending not in NOT_READ and not is_packed_parquet:
        return file
    raise DataError(
        "a Parquet file is compressed inside, not around" if is_packed_parquet else "this compression is not read",
        value=without_secrets(file.uri),
        allowed=", ".join(sorted(COMPRESSED)) + ", or none" if not is_packed_parquet else "a plain Parquet file",
        key=f"{key}.path",
        hint="unpack it first",
    )


def _ending(path: str) -> str:
    """``.gz`` of ``a/b.jsonl.gz``, in lower case."""
    return "." + path.rpartition("/")[2].rpartition(".")[2].lower()


def _with_options(uri: str, path: str) -> str:
    """What follows ``?`` in a URI (``endpoint_override``) holds for every file below it."""
    options = path.partition("?")[2] if is_uri(uri) else ""
    return f"{uri}?{options}" if options else uri


def _unclear_format(path: str, known: list[str], uris: list[str], key: str) -> DataError:
    found = ", ".join(known) if known else ", ".join(uris[:3])
    return DataError(
        "the files are of several formats" if known else "no file's ending says its format",
        value=f"{path}: {found}",
        allowed="parquet, arrow, jsonl, csv or text; one format for all files",
        key=f"{key}.format",
        hint="name the format, or let the path name one file or a glob",
    )


def _locate(uri: str, *, use_mmap: bool = False) -> tuple[fs.FileSystem, str]:
    if is_uri(uri):
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, path
    return fs.LocalFileSystem(use_mmap=use_mmap), str(Path(uri).expanduser())


def _without_mark(lines: io.BufferedReader) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        yield line.removeprefix(codecs.BOM_UTF8) if number == 0 else line


@contextmanager
def file_errors(uri: str, key: str) -> Iterator[None]:
    """Errors of the operating system, an object store or a parser as ones that name the file.

    Raises:
        UnusableFileError: what it holds cannot be parsed.
        DataError: it cannot be reached, so nothing is known about what it holds.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(uri, key, error) from error


def _unreadable(uri: str, key: str, error: Any) -> DataError:
    where, text = without_secrets(uri), str(error)
    if isinstance(error, OSError) and (error.errno is not None or _STORE.search(text)):
        cause, hint = explain(error)
        return DataError(f"cannot read {where}: {cause}", value=text, key=f"{key}.path", hint=hint)
    is_encoding = "utf8" in text.lower() or "utf-8" in text.lower()
    return UnusableFileError(
        f"cannot read {where}: " + ("it is not UTF-8" if is_encoding else "it is damaged or of another format"),
        value=text.splitlines()[0] if text else type(error).__name__,
        key=f"{key}.path",
        hint="save it as UTF-8" if is_encoding else "is the format the one that the ending, or `format`, says?",
    )


_STORE = re.compile(
    r"AWS Error|\bgoogle|GCS|Azure|HDFS|curl|HTTP status|connect|credential|time[d]?[- ]?out", re.IGNORECASE
)
"""What only a store says; a decompressor and a parser speak of streams, pages and headers."""
