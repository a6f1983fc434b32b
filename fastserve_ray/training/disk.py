"""What torch and safetensors raise when a disk is full, as the storage's own error."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastserve_ray.errors import StorageError
from fastserve_ray.storage.causes import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRITERS = ("PytorchStreamWriter", "SafetensorError", "unexpected pos", "No space left")


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Raise StorageError for any error of writing weights to ``where``."""
    try:
        with storage_errors("write", where):
            yield
    except StorageError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if not any(word in text for word in _WRITERS):
            raise
        raise StorageError(
            f"cannot write {where}",
            value=text.splitlines()[0],
            key="storage",
            hint="is the disk full? free space there, or set TMPDIR and storage to other places",
        ) from error
