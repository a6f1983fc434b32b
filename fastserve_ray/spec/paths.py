"""The spec's schema as a tree of dotted paths: what stands at a path, which keys are known, which is nearest."""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_origin

from fastserve_ray.spec.run import RunSpec
from fastserve_ray.spec.words import field_type, literal_values, model_of, union_members, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pydantic import BaseModel

    from fastserve_ray.spec.yaml_reader import Path, Plain


def split_path(key: str, data: object) -> Path:
    """The path that a dotted key means in ``data``.

    A key of ``data`` that has dots itself is found; the keys below ``tune.parameters`` always have them. Numbers
    index lists.
    """
    path: tuple[str | int, ...] = ()
    words = key.split(".")
    while words:
        taken, part = _next_part(words, data, path)
        path = (*path, part)
        words = words[taken:]
        data = child_of(data, part)
    return path


def _next_part(words: Sequence[str], data: object, path: Path) -> tuple[int, str | int]:
    if isinstance(data, list | tuple) and words[0].isdigit():
        return 1, int(words[0])
    if isinstance(data, dict):
        for length in range(len(words), 0, -1):
            if ".".join(words[:length]) in data:
                return length, ".".join(words[:length])
    if path == ("tune", "parameters"):
        return len(words), ".".join(words)
    return 1, words[0]


def child_of(data: object, part: str | int) -> Plain:
    """One step down in plain data; None where there is nothing."""
    if isinstance(data, dict):
        return data.get(part)
    if isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
        return data[part]  # type: ignore[no-any-return]
    return None


def value_at(data: object, path: Path) -> Plain:
    """The value at ``path`` in plain data; None where there is nothing."""
    for part in path:
        data = child_of(data, part)
    return data  # type: ignore[return-value]


def pick_member(annotation: object, value: object) -> object:
    """The member of a union that ``value`` is meant to be: by its ``kind``, or by the most keys in common."""
    members = union_members(annotation)
    if len(members) < 2:
        return members[0][1] if members else annotation
    if not isinstance(value, dict):
        plain = [member for _, member in members if model_of(member) is None]
        return plain[0] if plain else annotation
    kind = value.get("kind", value.get("space"))
    by_tag = [member for tag, member in members if kind is not None and tag == kind]
    candidates = by_tag or [member for _, member in members if model_of(member)]
    return max(candidates, key=lambda member: _keys_in_common(member, value), default=annotation)


def _keys_in_common(member: object, value: Mapping[str, object]) -> int:
    model = model_of(member)
    return len(model.model_fields.keys() & value.keys()) if model else 0


def type_at(path: Path, data: object, root: object = RunSpec) -> object | None:
    """The annotation at ``path``, given the file's own choices (which compression step stands at index 0).

    None when the schema has no such path. ``object`` below a free mapping such as ``model.config``.
    """
    current: object = root
    for part in path:
        current = _step(pick_member(current, data), part)
        if current is None:
            return None
        data = child_of(data, part)
    return current


def _step(annotation: object, part: str | int) -> object | None:
    if annotation is object:
        return object
    bare, _ = unwrap(pick_member(annotation, {}))
    if get_origin(bare) is dict:
        value_type = get_args(bare)[1]
        return object if getattr(value_type, "__name__", "") == "JsonValue" else value_type
    if get_origin(bare) is tuple:
        return get_args(bare)[0] if isinstance(part, int) else None
    model = model_of(bare)
    field = model.model_fields.get(str(part)) if model else None
    return field_type(field) if field else None


@cache
def dotted_keys(model: type[BaseModel] = RunSpec, prefix: str = "") -> tuple[str, ...]:
    """Every dotted key of the schema; entries of lists and free mappings are left out."""
    return tuple(_walk(model, prefix))


def _walk(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for _, member in union_members(field_type(field)):
            inner = model_of(member)
            if inner is not None:
                yield from _walk(inner, f"{prefix}{name}.")


def keys_in(data: object, path: Path) -> list[str]:
    """The dotted keys of the schema and, for lists, of the entries that ``data`` has, below ``path``."""
    prefix = "".join(f"{part}." for part in path)
    annotation = pick_member(type_at(path, data), value_at(data, path))
    bare, _ = unwrap(annotation)
    if get_origin(bare) is tuple:
        entries = value_at(data, path)
        return (
            [key for i in range(len(entries)) for key in keys_in(data, (*path, i))] if isinstance(entries, list) else []
        )
    model = model_of(annotation)
    return list(dotted_keys(model, prefix)) if model else []


def nearest(word: str, known: Iterable[object]) -> str | None:
    """The known name that a misspelt one most likely means: by likeness, or by its initials (``lr``)."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    if close:
        return close[0]
    initials = [name for name in names if "".join(part[:1] for part in name.split("_")) == word.lower()]
    return initials[0] if len(word) > 1 and initials else None


def nearest_key(word: str, siblings: Iterable[str]) -> str | None:
    """The nearest key beside the unknown one, else the dotted path of a key of that very name elsewhere."""
    near = nearest(word, siblings)
    if near is not None:
        return near
    return next((key for key in dotted_keys() if key.rpartition(".")[2] == word), None)


def allowed_literals(annotation: Any) -> tuple[str, ...]:
    """A Literal's values as text."""
    return tuple(str(value) for value in literal_values(annotation))
