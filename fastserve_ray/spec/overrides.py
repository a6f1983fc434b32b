"""``--set key=value`` and overrides by dotted path: both change plain data, which is then validated as a whole."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from fastserve_ray.errors import Problem
from fastserve_ray.spec.paths import split_path
from fastserve_ray.spec.yaml_reader import Document, Mark, dotted, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastserve_ray.spec.yaml_reader import Path, Plain


def apply_sets(document: Document, sets: Sequence[str], env: Mapping[str, str]) -> None:
    """Change ``document`` by each ``key=value``, in order; the flag becomes the "file" of what it sets."""
    for text in sets:
        flag = f"--set {text}"
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            document.problems.append(
                Problem("", "not of the form key=value", allowed="train.learning_rate=1e-4", file=flag)
            )
            continue
        read = read_yaml(value, file=flag, env=env)
        document.problems.extend(read.problems)
        path = split_path(key.strip(), document.data)
        reason = put(document.data, path, read.data)
        if reason is not None:
            document.problems.append(Problem(key.strip(), reason, file=flag))
            continue
        _forget(document, path)
        document.marks[path] = Mark(flag)


def merged(data: Plain, overrides: Mapping[str, object]) -> tuple[Plain, list[Problem]]:
    """A copy of ``data`` with each dotted key set, and what could not be set."""
    result = copy.deepcopy(data)
    problems = []
    for key, value in overrides.items():
        reason = put(result, split_path(key, result), value)  # type: ignore[arg-type]
        if reason is not None:
            problems.append(Problem(key, reason))
    return result, problems


def put(data: Plain, path: Path, value: Plain) -> str | None:
    """Set ``path`` in ``data``, making mappings on the way; one past the end of a list appends.

    Returns:
        Why it could not be set, or None.
    """
    for depth, part in enumerate(path):
        is_last = depth == len(path) - 1
        here = dotted(path[:depth]) or "the file"
        if isinstance(data, dict):
            if is_last:
                data[str(part)] = value
            elif data.get(str(part)) is None:
                data[str(part)] = {}
            data = data[str(part)]
        elif isinstance(data, list):
            if not isinstance(part, int) or part > len(data):
                return f"{here} is a list with {len(data)} entries; take a number from 0 to {len(data)}"
            if part == len(data):
                data.append({})
            if is_last:
                data[part] = value
            data = data[part]
        else:
            return f"{here} is {data!r}, which has no keys"
    return None


def _forget(document: Document, path: Path) -> None:
    """Drop the places and problems of what was replaced."""
    document.marks = {known: mark for known, mark in document.marks.items() if known[: len(path)] != path}
    key = dotted(path)
    document.problems = [
        problem for problem in document.problems if not (problem.key == key or problem.key.startswith(f"{key}."))
    ]
