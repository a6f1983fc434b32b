"""The JSON Schema of the YAML file, for editors and other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.spec.run import RunSpec

if TYPE_CHECKING:
    from pydantic import JsonValue

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, JsonValue]:
    """The schema, draft 2020-12, made from the models: same keys, bounds and descriptions.

    Rules that join several keys are not in it; ``fastserve validate`` checks those. Where ``${env:NAME}`` stands for
    a number an editor will complain, for it sees a string.
    """
    schema: dict[str, Any] = RunSpec.model_json_schema()
    schema["title"] = "FastServe-Ray run"
    return {"$schema": DIALECT, **_without_titles(schema, keep=True)}


def _without_titles(schema: dict[str, Any], *, keep: bool = False) -> dict[str, Any]:
    """Drop the titles that pydantic makes of every name; ``properties`` may hold a key named title."""
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str) and not keep:
            continue
        if key in ("properties", "$defs"):
            result[key] = {name: _without_titles(child) for name, child in value.items()}
        elif key in ("default", "const", "enum", "examples"):
            result[key] = value
        elif isinstance(value, dict):
            result[key] = _without_titles(value)
        elif isinstance(value, list):
            result[key] = [_without_titles(child) if isinstance(child, dict) else child for child in value]
        else:
            result[key] = value
    return result
