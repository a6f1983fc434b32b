"""English text that every CPython carries: its reference manual's topics and the docstrings of its standard library.

Files are parsed, never imported; the order is that of their names, so one version of Python gives one text.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "encodings", "__pycache__"}
    | {"_vendor", "site-packages", "dist-packages"}
)
MIN_CHARACTERS = 200
"""Shorter documents are left out: most are one line that says less than its function's name."""

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_docs(max_documents: int | None = None) -> list[str]:
    """Documents: every topic, then for every module its docstrings in the order of the source. No document twice.

    Takes about three seconds on one core.

    Raises:
        DataError: this Python was installed without them.
    """
    found: dict[str, None] = {}
    for text in _documents():
        if max_documents is not None and len(found) >= max_documents:
            break
        if len(text) >= MIN_CHARACTERS:
            found.setdefault(text)
    if not found:
        raise DataError(
            "this Python carries neither pydoc_data.topics nor the source of its standard library",
            value=sys.prefix,
            allowed="a complete CPython",
            key="data.train.kind",
            hint="take files of your own: data.train.path",
        )
    return list(found)


def _documents() -> Iterator[str]:
    for _, text in sorted(_topics().items()):
        yield text.strip()
    for path in _sources(Path(sysconfig.get_path("stdlib"))):
        yield "\n\n".join(_docstrings(path))


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return {}
    return dict(topics)


def _sources(root: Path) -> Iterator[Path]:
    for name in sorted(sys.stdlib_module_names - SKIPPED_FOLDERS):
        module = root / f"{name}.py"
        if module.is_file():
            yield module
        for folder, folders, files in os.walk(root / name):
            folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
            yield from (Path(folder, file) for file in sorted(files) if file.endswith(".py"))


def _docstrings(path: Path) -> list[str]:
    """Docstrings of a module, its classes and their functions; a file that does not parse has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    texts = (ast.get_docstring(node) for node in _documented(module))
    return [text.strip() for text in texts if text]


def _documented(node: _Documented) -> Iterator[_Documented]:
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(child)
