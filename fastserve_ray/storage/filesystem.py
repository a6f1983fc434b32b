"""Storage: a root folder at any URI that pyarrow knows.

Local writes are atomic (temporary file, flush, rename); object stores publish a file when its upload ends, which
comes to the same. Paths are relative to the root, with forward slashes.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pyarrow import fs

from fastserve_ray.errors import StorageError
from fastserve_ray.storage import local
from fastserve_ray.storage.causes import storage_errors, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

_LIST_TRIES = 5
_LIST_PAUSE_SECONDS = 0.02
_URI = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://")


@dataclass(frozen=True)
class StoredFile:
    """One file as a listing shows it."""

    path: str
    """Relative to the storage's root."""
    size: int
    """Bytes."""
    mtime: float | None
    """Seconds since the epoch; None where the store does not tell."""


class Storage:
    """Files under one root. Picklable: an unpickled copy opens the same URI again.

    Every method raises StorageError, which names the path, the cause and what to do.

    Args:
        uri: absolute path or URI.
        filesystem: what ``pyarrow.fs`` opened for it.
        root: the path of the root within ``filesystem``.
    """

    def __init__(self, uri: str, filesystem: fs.FileSystem, root: str) -> None:
        self.uri = uri
        self.filesystem = filesystem
        self.root = root.rstrip("/") or "/"
        self.is_local = isinstance(filesystem, fs.LocalFileSystem)

    @classmethod
    def open(cls, uri: str) -> Storage:
        """Open a path (relative ones against the working directory), ``file://``, ``s3://bucket/prefix``, ...

        S3 takes ``?endpoint_override=host:port&scheme=http&region=...`` and the usual AWS environment variables.
        """
        with storage_errors("open", uri):
            if not _URI.match(uri):
                path = Path(uri).expanduser().absolute()
                return cls(str(path), fs.LocalFileSystem(), path.as_posix())
            filesystem, root = fs.FileSystem.from_uri(uri)
            return cls(uri, filesystem, root)

    def __reduce__(self) -> tuple[object, ...]:
        return (Storage.open, (self.uri,))

    def __repr__(self) -> str:
        return f"Storage({without_secrets(self.uri)!r})"

    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder at ``path``."""
        with storage_errors("read", self.where(path)):
            return bool(self.filesystem.get_file_info(self._full(path)).type != fs.FileType.NotFound)

    def read_bytes(self, path: str, *, offset: int = 0) -> bytes:
        """The file from ``offset`` (bytes) to its end."""
        with storage_errors("read", self.where(path)), self.filesystem.open_input_file(self._full(path)) as file:
            file.seek(offset)
            return bytes(file.read())

    def write_bytes(self, path: str, data: bytes) -> None:
        """Create or replace a file, with the folders above it."""
        with storage_errors("write", self.where(path)):
            if self.is_local:
                local.write_atomically(Path(self._full(path)), data)
            else:
                self._write_remote(path, data)

    @contextmanager
    def open_output(self, path: str) -> Iterator[IO[bytes]]:
        """A stream to a new file, with the folders above it; not atomic: a reader may see it half-written."""
        with storage_errors("write", self.where(path)):
            self._make_parent(path)
            with self.filesystem.open_output_stream(self._full(path)) as stream:
                yield stream

    def read_json(self, path: str) -> JsonValue:
        """The file as JSON."""
        data = self.read_bytes(path)
        try:
            value: JsonValue = json.loads(data)
        except ValueError as error:
            raise StorageError(
                f"{self.where(path)} is not JSON",
                value=str(error),
                key="storage",
                hint="the file is damaged; delete it and run again",
            ) from error
        return value

    def write_json(self, path: str, value: JsonValue) -> None:
        """Write ``value`` as indented JSON."""
        self.write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def list_files(self, prefix: str = "", recursive: bool = True) -> list[StoredFile]:
        """Files under the folder ``prefix`` in order of their paths; an absent folder holds none."""
        with storage_errors("list", self.where(prefix)):
            found = [info for info in self._select(prefix, recursive=recursive) if info.type == fs.FileType.File]
        files = [
            StoredFile(self._relative(info.path), int(info.size or 0), info.mtime.timestamp() if info.mtime else None)
            for info in found
            if not local.is_temporary(info.base_name)
        ]
        return sorted(files, key=lambda file: file.path)

    def list_folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly under ``prefix``, in order; hidden ones are left out."""
        with storage_errors("list", self.where(prefix)):
            infos = self._select(prefix, recursive=False)
        names = (str(info.base_name) for info in infos if info.type == fs.FileType.Directory)
        return sorted(name for name in names if not name.startswith("."))

    def delete(self, path: str) -> None:
        """Delete a file or a whole folder; a missing one is fine."""
        assert path.strip("/"), "the root itself is never deleted"
        with storage_errors("delete", self.where(path)):
            full = self._full(path)
            kind = self.filesystem.get_file_info(full).type
            if kind == fs.FileType.Directory:
                self.filesystem.delete_dir(full)
            elif kind != fs.FileType.NotFound:
                self.filesystem.delete_file(full)

    def upload(self, source: Path, path: str) -> None:
        """Copy a local file to ``path``, or all files of a local folder to under ``path``."""
        if source.is_dir():
            for file in local.files_below(source):
                self._upload_file(file, f"{path.rstrip('/')}/{file.relative_to(source).as_posix()}")
        else:
            self._upload_file(source, path)

    def download(self, path: str, target: Path) -> None:
        """Copy a file, or all files of a folder, to the local path ``target``."""
        with storage_errors("read", self.where(path)):
            info = self.filesystem.get_file_info(self._full(path))
        if info.type == fs.FileType.Directory:
            for file in self.list_files(path):
                below = file.path.removeprefix(path.strip("/")).lstrip("/")
                self._download_file(file.path, target / below)
        else:
            self._download_file(path, target)

    def local_path(self, path: str = "") -> Path | None:
        """Where ``path`` lies on this machine; None for object stores."""
        return Path(self._full(path)) if self.is_local else None

    def where(self, path: str = "") -> str:
        """``path`` as people write it, without credentials."""
        base, question, query = self.uri.partition("?")
        joined = f"{base.rstrip('/')}/{path.strip('/')}" if path.strip("/") else base
        return without_secrets(joined + question + query)

    def check_writable(self) -> None:
        """Write and delete a small file under the root, so that a run fails before it has cost anything."""
        probe = f".probe-{uuid.uuid4().hex[:8]}"
        self.write_bytes(probe, b"ok")
        self.delete(probe)

    def _full(self, path: str) -> str:
        relative = path.strip("/")
        assert ".." not in relative.split("/"), f"{path} leaves the root"
        return f"{self.root.rstrip('/')}/{relative}" if relative else self.root

    def _relative(self, full: str) -> str:
        return full[len(self.root.rstrip("/")) + 1 :]

    def _select(self, prefix: str, *, recursive: bool) -> list[fs.FileInfo]:
        """A folder that appears or goes while it is listed makes pyarrow fail; the next try sees it or does not."""
        selector = fs.FileSelector(self._full(prefix), recursive=recursive, allow_not_found=True)
        for _ in range(_LIST_TRIES):
            try:
                return list(self.filesystem.get_file_info(selector))
            except FileNotFoundError:
                time.sleep(_LIST_PAUSE_SECONDS)
        return list(self.filesystem.get_file_info(selector))

    def _write_remote(self, path: str, data: bytes) -> None:
        self._make_parent(path)
        with self.filesystem.open_output_stream(self._full(path)) as stream:
            stream.write(data)

    def _make_parent(self, path: str) -> None:
        """HDFS and the like need the folder; in an object store it costs nothing worth saving."""
        if not isinstance(self.filesystem, fs.S3FileSystem):
            self.filesystem.create_dir(os.path.dirname(self._full(path)), recursive=True)  # noqa: PTH120

    def _upload_file(self, source: Path, path: str) -> None:
        with storage_errors("write", self.where(path)):
            if self.is_local:
                local.copy_atomically(source, Path(self._full(path)))
            else:
                self._make_parent(path)
                self._copy(source.as_posix(), fs.LocalFileSystem(), self._full(path), self.filesystem)

    def _download_file(self, path: str, target: Path) -> None:
        with storage_errors("read", self.where(path)):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._copy(self._full(path), self.filesystem, target.as_posix(), fs.LocalFileSystem())

    @staticmethod
    def _copy(source: str, source_fs: fs.FileSystem, target: str, target_fs: fs.FileSystem) -> None:
        fs.copy_files(source, target, source_filesystem=source_fs, destination_filesystem=target_fs)
