"""Types in words: what a field takes, said as a person would, from its annotation and bounds."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag
from pydantic.fields import FieldInfo

from fastserve_ray.spec.base import Words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SIMPLE = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
_BOUNDS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}


def unwrap(annotation: object) -> tuple[Any, tuple[object, ...]]:
    """The bare type, and all metadata that ``Annotated`` and ``Field`` put around it."""
    metadata: list[object] = []
    while get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        metadata.extend(_flat(extra))
    return annotation, tuple(metadata)


def field_type(field: FieldInfo) -> object:
    """A field's annotation with its metadata around it again."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def union_members(annotation: object) -> list[tuple[str | None, object]]:
    """Members of a union, without None, each with its tag; one member for anything that is no union."""
    bare, metadata = unwrap(annotation)
    if get_origin(bare) not in (Union, UnionType):
        return [(_tag_of(bare, metadata), annotation)]
    members = [member for member in get_args(bare) if member is not NoneType]
    if len(members) == 1 and get_origin(unwrap(members[0])[0]) in (Union, UnionType):
        return union_members(members[0])  # a choice of sections that may be left out
    return [(_tag_of(*unwrap(member)), member) for member in members]


def literal_values(annotation: object) -> tuple[object, ...]:
    """What a Literal allows; empty for other types."""
    values = [get_args(bare) for bare in _bare_members(annotation) if get_origin(bare) is Literal]
    return tuple(value for group in values for value in group)


def model_of(annotation: object) -> type[BaseModel] | None:
    """The model in an annotation that holds exactly one."""
    models = [bare for bare in _bare_members(annotation) if isinstance(bare, type) and issubclass(bare, BaseModel)]
    return models[0] if len(models) == 1 else None


def describe(annotation: object) -> str:
    """What ``annotation`` takes, in words: "an integer greater than 0"."""
    bare, metadata = unwrap(annotation)
    for item in metadata:
        if isinstance(item, Words):
            return item.text
    members = union_members(annotation)
    if len(members) > 1:
        return " or ".join(dict.fromkeys(describe(member) for _, member in members))
    if len(members) == 1 and members[0][1] is not annotation:
        return describe(Annotated[(members[0][1], *metadata)] if metadata else members[0][1])
    return " ".join([_describe_bare(bare), *_bounds(metadata)])


def listing(names: Iterable[object], last: str = "or") -> str:
    """``a, b or c``."""
    words = [str(name) for name in names]
    return f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _describe_bare(bare: Any) -> str:
    if bare in _SIMPLE:
        return _SIMPLE[bare]
    origin = get_origin(bare)
    if origin is Literal:
        return listing(get_args(bare))
    if origin is tuple:
        return f"a list; each entry {describe(get_args(bare)[0])}"
    if origin is dict or bare is dict:
        return "a mapping"
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return f"a mapping with the keys {listing(bare.model_fields, 'and')}"
    return "a YAML value"


def _bounds(metadata: Sequence[object]) -> list[str]:
    words = [
        f"{text} {getattr(item, name)}"
        for item in metadata
        for name, text in _BOUNDS.items()
        if getattr(item, name, None) is not None
    ]
    lengths = [item.min_length for item in metadata if getattr(item, "min_length", None) is not None]  # type: ignore[attr-defined]
    return [" and ".join(words)] * bool(words) + [f"with at least {length} of them" for length in lengths]


def _flat(metadata: Iterable[object]) -> list[object]:
    return [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _bare_members(annotation: object) -> list[Any]:
    return [unwrap(member)[0] for _, member in union_members(annotation)]


def _tag_of(bare: Any, metadata: Sequence[object]) -> str | None:
    for item in metadata:
        if isinstance(item, Tag):
            return item.tag
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        for name in ("kind", "space"):
            values = literal_values(bare.model_fields[name].annotation) if name in bare.model_fields else ()
            if values:  # a kind that is a class's path tells no member from another
                return str(values[0])
    return None
