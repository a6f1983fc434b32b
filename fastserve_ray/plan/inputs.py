"""Where the inputs named by a spec are: local files, files at a URI, hub models, artifacts."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastserve_ray.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

ReferenceKind = Literal["folder", "uri", "artifact", "hub"]

_URI = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class InputFile:
    """One file that a stage reads."""

    uri: str
    size: int
    """Bytes."""
    modified: int | None
    """Nanoseconds since the epoch; None where the store does not tell."""


def is_uri(path: str) -> bool:
    """Whether ``path`` is a URI rather than a local path."""
    return bool(_URI.match(path))


def local_path(place: str) -> str | None:
    """``place`` as a path of this machine's disk, also of ``file://``; None for a URI of anything else."""
    path = place.removeprefix("file://")
    return None if is_uri(path) else path


def reference_kind(base: str) -> ReferenceKind | None:
    """What ``model.base`` refers to; None for a local path where nothing is.

    A folder wins over a hub id of the same name; ``run@stage`` and ``artifact:ID`` are artifacts.
    """
    if base.startswith("artifact:"):
        return "artifact"
    if is_uri(base):
        return "uri"
    if Path(base).expanduser().exists():
        return "folder"
    if "@" in base and not base.startswith((".", "/", "~")):
        return "artifact"
    return "hub" if _HUB_ID.match(base) else None


def list_input(path: str) -> list[InputFile]:
    """The files that a path, folder, glob or URI means, sorted; in a folder, names that begin with ``.`` or ``_`` are
    left out.

    Raises:
        DataError: there is nothing, or it cannot be read.
    """
    local = local_path(path)
    try:
        files = _list_remote(path) if local is None else _list_local(local)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise DataError("the input cannot be read", value=path, hint=str(error)) from error
    if not files:
        raise DataError("there is no such file", value=path, allowed="a file, a folder with files, or a glob")
    return sorted(files, key=lambda file: file.uri)


def _list_local(path: str) -> list[InputFile]:
    root = Path(path).expanduser()
    if _GLOB.search(path) and not root.exists():
        found = [Path(name) for name in glob.glob(str(root), recursive=True)]  # noqa: PTH207 (may be absolute)
    else:
        found = [root]
    return [_described(file) for item in found for file in _files_of(item)]


def _files_of(item: Path) -> list[Path]:
    if not item.is_dir():
        return [item] if item.is_file() else []
    return [file for file in item.rglob("*") if file.is_file() and _is_visible(file.name)]


def _described(file: Path) -> InputFile:
    stat = file.stat()
    return InputFile(str(file), stat.st_size, stat.st_mtime_ns)


def _list_remote(uri: str) -> list[InputFile]:
    """Listing through pyarrow.fs, imported only here: a plan over local files starts without it.

    What follows ``?`` are options of the store (``endpoint_override``), so only ``*`` and ``[`` make a glob.
    """
    import fnmatch

    from pyarrow import fs

    place, _, options = uri.partition("?")
    scheme, _, path = place.partition("://")
    wild = re.search(r"[*\[]", path)
    base = path[: wild.start()].rpartition("/")[0] if wild else path
    filesystem, root = fs.FileSystem.from_uri(f"{scheme}://{base}" + (f"?{options}" if options else ""))
    info = filesystem.get_file_info(root)
    if info.type == fs.FileType.File:
        found = [info]
    else:
        inside = filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        pattern = f"{root.rstrip('/')}{path[len(base) :]}"
        found = [item for item in inside if _is_wanted(item, pattern if wild else None, fnmatch.fnmatchcase)]
    return [InputFile(f"{scheme}://{item.path}", item.size, item.mtime_ns) for item in found if item.is_file]


def _is_wanted(item: Any, pattern: str | None, matches: Callable[[str, str], bool]) -> bool:
    """A glob takes names that it matches level by level; a folder takes what is visible."""
    if pattern is None:
        return _is_visible(item.base_name)
    is_deep_enough = "**" in pattern or item.path.count("/") == pattern.count("/")
    return is_deep_enough and matches(item.path, pattern.replace("**/", "*"))


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "_"))
