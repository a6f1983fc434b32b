"""Errors in words."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from fastserve_ray.errors import StorageError
from fastserve_ray.storage.causes import storage_errors, without_secrets


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "permission denied"), (errno.EROFS, "read-only")],
)
def test_errno_becomes_words(number: int, words: str) -> None:
    with pytest.raises(StorageError, match=words), storage_errors("write", "/x"):
        raise OSError(number, "whatever")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_really_full_device() -> None:
    with pytest.raises(StorageError, match="cannot write /dev/full: the disk is full") as caught:  # noqa: SIM117
        with storage_errors("write", "/dev/full"), Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")
    assert caught.value.hint is not None
    assert "free space" in caught.value.hint


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="mine"), storage_errors("write", "/x"):
        raise ValueError("mine")


def test_secrets_are_left_out() -> None:
    assert without_secrets("s3://key:secret@bucket/x") == "s3://bucket/x"
    assert without_secrets("s3://bucket/user@host") == "s3://bucket/user@host"
