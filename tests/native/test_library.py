"""The kernels are built once, by whoever comes first, and are not needed."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.native import library

if TYPE_CHECKING:
    from pathlib import Path

needs_kernels = pytest.mark.skipif(library.load_library() is None, reason="no kernels here: no x86, or no C++ compiler")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and nothing loaded."""
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path))
    monkeypatch.setattr(library, "load_library", library.load_library.__wrapped__)
    return tmp_path / "native"


@needs_kernels
def test_built_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.load_library() is not None
    (built,) = fresh.glob("*.so")
    monkeypatch.setattr(library, "_run", lambda command: pytest.fail(f"compiles again: {command}"))
    assert library.load_library() is not None
    assert [path for path in fresh.iterdir() if path.suffix not in {".so", ".lock"}] == []
    assert built.exists()


def test_switched_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSERVE_NATIVE", "0")
    assert library.load_library() is None
    assert not fresh.exists()


@needs_kernels
@pytest.mark.parametrize("reason", ["no compiler", "a compiler that fails"])
def test_without_a_compiler_it_says_so_and_goes_on(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    if reason == "no compiler":
        monkeypatch.setattr(shutil, "which", lambda name: None)
        monkeypatch.delenv("CXX", raising=False)
    else:
        monkeypatch.setenv("CXX", "false")
    with caplog.at_level(logging.WARNING):
        assert library.load_library() is None
    assert "cannot be used" in caplog.text
    assert ("install g++" if reason == "no compiler" else "false failed") in caplog.text
    assert not list(fresh.glob("*.so"))


def test_a_processor_that_can_do_none_of_it(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "cpu_flags", lambda: frozenset({"fp", "asimd"}))
    assert library.load_library() is None
    assert not fresh.exists()


@needs_kernels
def test_what_was_built_before_is_taken_without_a_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LEVELS", library.LEVELS[-1:])
    (built,) = library.build_all(fresh / "image")
    monkeypatch.setenv("FASTSERVE_NATIVE", str(fresh / "image"))
    monkeypatch.setattr(library, "_run", lambda command: pytest.fail(f"compiles again: {command}"))
    found = library.load_library()
    assert found is not None
    assert found._name == str(built)
    assert list(fresh.glob("*.so")) == []
