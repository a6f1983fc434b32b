"""Turns what operating systems and object stores report into one sentence and one thing to do."""

from __future__ import annotations

import errno
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow

from fastserve_ray.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BY_ERRNO: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", "free space there, or let the key name another place"),
    errno.EDQUOT: ("the disk quota is used up", "free space there, or let the key name another place"),
    errno.EFBIG: ("the file is larger than this process may write", "raise the limit (ulimit -f) and start again"),
    errno.EACCES: ("permission denied", "give this user the right, or let the key name another place"),
    errno.EPERM: ("permission denied", "give this user the right, or let the key name another place"),
    errno.EROFS: ("the file system is read-only", "let the key name a place that can be written"),
    errno.ENOENT: ("it does not exist", "check the path"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "check the path"),
    errno.EISDIR: ("it is a folder, not a file", "check the path"),
    errno.ENAMETOOLONG: ("the name is too long", "let the key name a shorter path"),
    errno.EIO: ("the device reports an input/output error", "check the disk"),
}

_BY_TEXT: tuple[tuple[str, str, str], ...] = (
    ("NO_SUCH_BUCKET|bucket.*does not exist", "the bucket does not exist", "create the bucket, or correct the URI"),
    ("create bucket|allow_bucket_creation", "the bucket does not exist", "create the bucket, or correct the URI"),
    ("ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|Forbidden|HTTP status 403", "access is denied",
     "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do"),
    ("No AWS credentials|credentials", "no credentials were found", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ("NETWORK_CONNECTION|Couldn't resolve host|Could not connect|REQUEST_TIMEOUT|timed out", "it cannot be reached",
     "check endpoint_override in the URI and the network"),
    ("NO_SUCH_KEY|RESOURCE_NOT_FOUND|HTTP status 404", "it does not exist", "check the path"),
)  # fmt: skip


@contextmanager
def storage_errors(doing: str, where: str) -> Iterator[None]:
    """Raise StorageError instead of any error of the operating system, of Arrow or of an object store.

    Args:
        doing: the verb, for example "write".
        where: full path or URI.
    """
    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        cause, hint = explain(error)
        raise StorageError(
            f"cannot {doing} {without_secrets(where)}: {cause}",
            value=without_secrets(str(error)),
            key="storage",
            hint=hint,
        ) from error


def explain(error: Exception) -> tuple[str, str]:
    """Cause and remedy in words."""
    number = getattr(error, "errno", None)
    if number in _BY_ERRNO:
        return _BY_ERRNO[number]
    text = str(error)
    for pattern, cause, hint in _BY_TEXT:
        if re.search(pattern, text, re.IGNORECASE):
            return cause, hint
    return type(error).__name__, "check the URI and the state of the storage"


def without_secrets(text: str) -> str:
    """``scheme://user:password@host`` without user and password."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)
