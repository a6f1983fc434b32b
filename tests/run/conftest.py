"""Fixtures of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.run import fakes
from tests.s3_server import s3_server, s3_uri

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["executed", "s3_server", "s3_uri"]


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Names of the fake stages that did their work, in order."""
    path = tmp_path / "executions"
    path.touch()
    monkeypatch.setenv(fakes.EXECUTIONS, str(path))
    return lambda: path.read_text().split()
