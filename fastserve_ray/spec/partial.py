"""A spec with errors, as far as it can be understood, so that cross-checks run on the rest in the same go."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from fastserve_ray.spec.problems import Finding, findings_of
from fastserve_ray.spec.run import RunSpec

if TYPE_CHECKING:
    from fastserve_ray.spec.yaml_reader import Path, Plain

MAX_ROUNDS = 8
_PLACEHOLDERS: dict[str, Plain] = {"name": "unnamed", "model": {"base": "unnamed"}}


@dataclass(frozen=True)
class Partial:
    """What could be validated."""

    spec: RunSpec | None
    """The spec without its broken keys; None when nothing of it stands."""
    findings: tuple[Finding, ...]
    """Errors of single fields; empty: ``spec`` is the whole file."""
    broken: frozenset[Path]
    """Paths that were left out."""

    def is_sound(self, finding: Finding) -> bool:
        """Whether ``finding`` was concluded only from keys that are sound."""
        used = (finding.path, *finding.uses)
        return not any(path[: len(bad)] == bad for path in used for bad in self.broken)


def validate_partly(data: dict[str, Plain]) -> Partial:
    """Validate ``data``; on errors leave out the broken keys and try again, a few times."""
    first: tuple[Finding, ...] = ()
    broken: set[Path] = set()
    rest: dict[str, Plain] = data
    for attempt in range(MAX_ROUNDS):
        try:
            return Partial(RunSpec.model_validate(rest), first, frozenset(broken))
        except ValidationError as error:
            found = findings_of(error, rest)
        first = first if attempt else tuple(found)
        rest = copy.deepcopy(rest)
        for finding in found:
            broken.add(_leave_out(rest, finding.path))
    return Partial(None, first, frozenset(broken))


def _leave_out(data: dict[str, Plain], path: Path) -> Path:
    """Delete ``path``, or, where it is missing or a list's entry, the nearest key that holds it."""
    for length in range(len(path), 0, -1):
        holder: object = data
        for part in path[: length - 1]:
            holder = _enter(holder, part)
        if isinstance(holder, dict) and path[length - 1] in holder:
            del holder[path[length - 1]]
            return path[:length]
    name = str(path[0]) if path else ""
    if name in _PLACEHOLDERS:
        data[name] = copy.deepcopy(_PLACEHOLDERS[name])
    return path


def _enter(holder: object, part: str | int) -> object:
    try:
        return holder[part]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        return None
