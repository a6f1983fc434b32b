"""pydantic's errors as findings in plain words, each once.

pydantic reports a union once for every member that did not fit. Here the member is chosen that the value was meant
to be (by its ``kind``), and a union of plain types is reported as one finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_origin

from fastserve_ray.errors import Problem
from fastserve_ray.spec.paths import allowed_literals, nearest, nearest_key, pick_member
from fastserve_ray.spec.run import RunSpec
from fastserve_ray.spec.words import describe, field_type, listing, model_of, union_members, unwrap
from fastserve_ray.spec.yaml_reader import Document, Path, dotted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

MAX_VALUE_CHARS = 60
KEY = "[key]"
"""The end of pydantic's location of a mapping's key that is wrong itself."""


@dataclass(frozen=True)
class Finding:
    """A problem before it is placed in the file."""

    path: Path
    message: str
    value: str | None = None
    allowed: str | None = None
    nearest: str | None = None
    uses: tuple[Path, ...] = ()
    """Other paths that the finding was concluded from; when one of them is itself wrong, the finding is dropped."""

    def placed(self, document: Document) -> Problem:
        """With file, line and column."""
        mark = document.mark_of(self.path)
        return Problem(
            dotted(self.path),
            self.message,
            value=self.value,
            allowed=self.allowed,
            nearest=self.nearest,
            file=mark.file,
            line=mark.line,
            column=mark.column,
        )


@dataclass(frozen=True)
class _Place:
    """Where a pydantic location lies in the file."""

    path: Path
    annotation: object
    parent: object
    """What holds the last part of the path."""
    union: tuple[Path, object] | None
    """The outermost union of plain types that the location passes through."""


def findings_of(error: ValidationError, data: object) -> list[Finding]:
    """All that pydantic found in ``data``, unions joined, in the order of the file's schema."""
    found: dict[tuple[Path, str], Finding] = {}
    for detail in error.errors(include_url=False):
        place = _place(detail["loc"], data)
        finding = _union_finding(place, detail, data) if place.union else _finding(place, detail)
        if finding is not None:
            found.setdefault((finding.path, finding.message), finding)
    return list(found.values())


def shown(value: object) -> str:
    """A value for a message, shortened."""
    if isinstance(value, dict):
        return f"a mapping with the keys {listing(value, 'and')}" if value else "an empty mapping"
    if value is None:
        return "nothing (null)"
    text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    text = {"True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 3]}..."


def _place(location: Sequence[int | str], data: object) -> _Place:
    path: Path = ()
    current: object = RunSpec
    parent: object = RunSpec
    union: tuple[Path, object] | None = None
    for part in location:
        if part == KEY and get_origin(unwrap(parent)[0]) is dict:
            current = get_args(unwrap(parent)[0])[0]
            continue
        members = union_members(current)
        if len(members) > 1:
            tagged = [member for tag, member in members if tag == part]
            if not tagged and union is None:
                union = (path, current)
            current = tagged[0] if tagged else pick_member(current, _value(data, path))
            continue
        path = (*path, part)
        parent = members[0][1] if members else current
        current = _below(parent, part)
    return _Place(path, current, parent, union)


def _below(annotation: object, part: int | str) -> object:
    bare, _ = unwrap(annotation)
    if get_origin(bare) is tuple:
        return get_args(bare)[0]
    if get_origin(bare) is dict:
        return get_args(bare)[1]
    model = model_of(bare)
    field = model.model_fields.get(str(part)) if model else None
    return field_type(field) if field else object


def _value(data: object, path: Path) -> Any:
    for part in path:
        try:
            data = data[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _union_finding(place: _Place, detail: ErrorDetails, data: object) -> Finding | None:
    """One finding for a union of plain types; a mapping is judged by the member that is a mapping."""
    assert place.union is not None
    path, annotation = place.union
    value = _value(data, path)
    if isinstance(value, dict) and any(model_of(member) for _, member in union_members(annotation)):
        is_of_mapping = len(place.path) > len(path)
        return _finding(place, detail) if is_of_mapping else None
    return Finding(path, "wrong type", shown(value), describe(annotation))


def _finding(place: _Place, detail: ErrorDetails) -> Finding:
    kind, value, path = detail["type"], detail["input"], place.path
    if kind == "extra_forbidden":
        return _unknown_key(place)
    if kind == "missing":
        return Finding(path, "required key is missing", None, describe(place.annotation))
    if kind == "union_tag_invalid":
        return _unknown_kind(place, detail)
    if kind == "union_tag_not_found" and isinstance(value, dict):
        name = detail["ctx"]["discriminator"].strip("'")
        return Finding((*path, name), "required key is missing", None, listing(_tags(place.annotation)))
    if kind == "literal_error":
        known = allowed_literals(place.annotation)
        return Finding(path, "not an allowed value", shown(value), listing(known), nearest(str(value), known))
    message = _MESSAGES.get(kind, "wrong type" if kind.endswith("_type") else "not an allowed value")
    return Finding(path, message, shown(value), describe(place.annotation))


_MESSAGES = {
    "greater_than": "out of range",
    "greater_than_equal": "out of range",
    "less_than": "out of range",
    "less_than_equal": "out of range",
    "finite_number": "must be finite",
    "too_short": "too few entries",
    "string_pattern_mismatch": "does not have the right form",
    "union_tag_not_found": "wrong type",
}


def _tags(annotation: object) -> list[str]:
    return [tag for tag, _ in union_members(annotation) if tag is not None]


def _unknown_key(place: _Place) -> Finding:
    model = model_of(place.parent)
    known = list(model.model_fields) if model else []
    near = nearest_key(str(place.path[-1]), known)
    return Finding(place.path, "unknown key", None, listing(known, "and"), near)


def _unknown_kind(place: _Place, detail: ErrorDetails) -> Finding:
    tags = _tags(place.annotation)
    name = detail["ctx"]["discriminator"].strip("'")
    name = name if name in ("kind", "space") else "kind"
    given = detail["ctx"]["tag"]
    return Finding((*place.path, name), f"unknown {name}", shown(given), listing(tags), nearest(str(given), tags))
