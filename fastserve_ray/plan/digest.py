"""Digests: the name of a result before it exists."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

STAGE_FORMATS = {"data": 3, "import": 1, "tune": 1, "train": 1, "compress": 1, "verify": 1, "serve": 1}
"""Version of each stage's code. Raise one when the stage gives another result for the same settings; what it
published before is then made anew."""


def canonical_json(value: JsonValue | Mapping[str, JsonValue]) -> str:
    """One text for equal values: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def stage_digest(
    stage: str,
    *,
    settings: Mapping[str, JsonValue],
    parents: Mapping[str, str],
    fingerprints: Mapping[str, JsonValue],
) -> str:
    """sha256 (hex) over all that decides the stage's result.

    Args:
        settings: the keys of the spec that count, by dotted path.
        parents: digests of the stages that it reads, by name.
        fingerprints: identities of outside inputs (files, hub models), by the key that names them.
    """
    content: dict[str, JsonValue] = {
        "stage": stage,
        "format": STAGE_FORMATS[stage],
        "settings": dict(settings),
        "parents": dict(parents),
        "inputs": dict(fingerprints),
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
