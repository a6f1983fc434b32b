"""What every section of the spec shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A frozen part of the spec: unknown keys fail, types are not coerced, every field has bounds and a sentence."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


@dataclass(frozen=True)
class Words:
    """Metadata of a field: what it takes, for error messages, where its type does not say it well (a pattern)."""

    text: str


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
ListInput = BeforeValidator(_as_tuple)
"""Lets a YAML list fill a tuple field although the section is strict."""

Scalar = str | int | float | bool
"""A value that a search space or an override may hold."""
