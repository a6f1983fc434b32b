"""Which files a source means, in which format, and how to open them wherever they are."""

from __future__ import annotations

import codecs
import io
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import fs

from fastserve_ray.errors import DataError
from fastserve_ray.plan.inputs import is_uri, list_input
from fastserve_ray.storage.causes import explain, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.data import FilesSource

ENDINGS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".text": "text",
}
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}


@dataclass(frozen=True)
class SourceFile:
    """One file and how to read it."""

    uri: str
    format: str

    @property
    def name(self) -> str:
        """Last part of the path, without the ending of a compression."""
        name = self.uri.partition("?")[0].rpartition("/")[2]
        stem, dot, ending = name.rpartition(".")
        return stem if f".{ending}" in COMPRESSED and dot else name

    @contextmanager
    def open_seekable(self, key: str) -> Iterator[pa.NativeFile]:
        """The bytes as they are."""
        with _read_errors(self.uri, key):
            filesystem, path = _locate(self.uri)
            with filesystem.open_input_file(path) as stream:
                yield stream

    @contextmanager
    def open_stream(self, key: str) -> Iterator[pa.NativeFile]:
        """The bytes from the start, decompressed when the ending says so."""
        with _read_errors(self.uri, key):
            filesystem, path = _locate(self.uri)
            compression = COMPRESSED.get("." + path.rpartition(".")[2])
            with filesystem.open_input_stream(path, compression=compression) as stream:
                yield stream

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
    uris = [_with_options(file.uri, source.path) for file in listed]
    if source.format is not None:
        matching = [uri for uri in uris if format_of(uri) == source.format]
        return [SourceFile(uri, source.format) for uri in matching or uris]
    formats = {uri: format_of(uri) for uri in uris}
    known = sorted({name for name in formats.values() if name is not None})
    if len(known) != 1:
        raise _unclear_format(source.path, known, uris, key)
    return [SourceFile(uri, known[0]) for uri in uris if formats[uri]]


def format_of(uri: str) -> str | None:
    """The format that a file's ending says; None when it says nothing."""
    path = SourceFile(uri, "").name
    return ENDINGS.get("." + path.rpartition(".")[2].lower())


def _with_options(uri: str, path: str) -> str:
    """What follows ``?`` in a URI (``endpoint_override``) holds for every file below it."""
    options = path.partition("?")[2] if is_uri(uri) else ""
    return f"{uri}?{options}" if options else uri


def _unclear_format(path: str, known: list[str], uris: list[str], key: str) -> DataError:
    found = ", ".join(known) if known else ", ".join(uris[:3])
    return DataError(
        "the files are of several formats" if known else "no file's ending says its format",
        value=f"{path}: {found}",
        allowed="parquet, jsonl, csv or text; one format for all files",
        key=f"{key}.format",
        hint="name the format, or let the path name one file or a glob",
    )


def _locate(uri: str) -> tuple[fs.FileSystem, str]:
    if is_uri(uri):
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, path
    return fs.LocalFileSystem(), str(Path(uri).expanduser())


def _without_mark(lines: io.BufferedReader) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        yield line.removeprefix(codecs.BOM_UTF8) if number == 0 else line


@contextmanager
def _read_errors(uri: str, key: str) -> Iterator[None]:
    """Errors of the operating system, an object store or a parser as a DataError that names the file."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(uri, key, error) from error


def _unreadable(uri: str, key: str, error: Any) -> DataError:
    where = without_secrets(uri)
    if isinstance(error, OSError) and (error.errno is not None or is_uri(uri)):
        cause, hint = explain(error)
        return DataError(f"cannot read {where}: {cause}", value=str(error), key=f"{key}.path", hint=hint)
    text = str(error)
    is_encoding = "utf8" in text.lower() or "utf-8" in text.lower()
    return DataError(
        f"cannot read {where}: " + ("it is not UTF-8" if is_encoding else "it is damaged or of another format"),
        value=text.splitlines()[0] if text else type(error).__name__,
        key=f"{key}.path",
        hint="save it as UTF-8" if is_encoding else "is the format the one that the ending, or `format`, says?",
    )
