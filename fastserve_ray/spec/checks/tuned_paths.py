"""Rules about the keys of ``tune.parameters``: each must exist, and each of its values must be legal there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from fastserve_ray.spec.overrides import merged
from fastserve_ray.spec.paths import keys_in, nearest, split_path, type_at, value_at
from fastserve_ray.spec.problems import Finding, findings_of
from fastserve_ray.spec.run import RunSpec
from fastserve_ray.spec.tune import Choice, GridSearch
from fastserve_ray.spec.words import model_of
from fastserve_ray.spec.yaml_reader import dotted

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.spec.base import Scalar
    from fastserve_ray.spec.tune import SearchSpace
    from fastserve_ray.spec.yaml_reader import Path, Plain

TUNABLE: tuple[Path, ...] = (("train",), ("model", "config"), ("compress",))
_TUNABLE_WORDS = "a key below train., model.config. or compress."


def check_tuned_paths(spec: RunSpec, check: Callable[[RunSpec], list[Finding]]) -> list[Finding]:
    """Try the ends of each space, or each of its listed values, in place of the file's own value.

    One finding for each key. A rule that looks at two tuned keys is left to the trials, which draw both.

    Args:
        spec: valid field by field.
        check: all other rules.
    """
    if spec.tune is None:
        return []
    data = spec.model_dump(mode="json", exclude={"tune"}, exclude_unset=True)
    paths = {name: split_path(name, data) for name in spec.tune.parameters}
    known = {(finding.path, finding.message) for finding in check(spec.model_copy(update={"tune": None}))}
    findings = []
    for name, space in spec.tune.parameters.items():
        wrong = _unknown_path(name, paths[name], data)
        if wrong is not None:
            findings.append(wrong)
            continue
        others = [path for other, path in paths.items() if other != name]
        bad = [
            (value, finding)
            for value in samples(space)
            for finding in _with_value(name, value, data, check)
            if (finding.path, finding.message) not in known
            and not any(path in (finding.path, *finding.uses) for path in others)
        ]
        findings += [_about_tune(name, value, finding) for value, finding in bad[:1]]
    return findings


def samples(space: SearchSpace) -> tuple[Scalar, ...]:
    """Both ends of a range, or every listed value."""
    if isinstance(space, Choice):
        return space.categories
    if isinstance(space, GridSearch):
        return space.values
    return (space.lower, space.upper)


def _unknown_path(name: str, path: Path, data: dict[str, Plain]) -> Finding | None:
    at: Path = ("tune", "parameters", name)
    if not any(path[: len(prefix)] == prefix and len(path) > len(prefix) for prefix in TUNABLE):
        near = nearest(name, _tunable_keys(data)) or _by_last_word(name, data)
        return Finding(at, "not a key that can be tuned", None, _TUNABLE_WORDS, near)
    annotation = type_at(path, data)
    entries = data.get("compress")
    is_missing_entry = path[0] == "compress" and not (
        isinstance(path[1], int) and isinstance(entries, list) and path[1] < len(entries)
    )
    if annotation is None or is_missing_entry:
        return Finding(
            at, "no such key in this file's schema", None, _TUNABLE_WORDS, nearest(name, _tunable_keys(data)), (path,)
        )
    if path[:2] == ("model", "config") and value_at(data, ("model", "config")) is None:
        return Finding(at, "there is no model.config to tune", None, "with model.config", uses=(("model", "config"),))
    if model_of(annotation) is not None:
        return Finding(at, "is a whole section", None, "one of its keys", nearest(f"{name}.", _tunable_keys(data)))
    return None


def _tunable_keys(data: dict[str, Plain]) -> list[str]:
    config = value_at(data, ("model", "config"))
    config_keys = config if isinstance(config, dict) else ()
    return [*keys_in(data, ("train",)), *keys_in(data, ("compress",)), *(f"model.config.{key}" for key in config_keys)]


def _by_last_word(name: str, data: dict[str, Plain]) -> str | None:
    word = name.rpartition(".")[2]
    return next((key for key in _tunable_keys(data) if key.rpartition(".")[2] == word), None)


def _about_tune(name: str, value: Scalar, finding: Finding) -> Finding:
    where = dotted(finding.path)
    message = finding.message if where == name else f"{where} would be wrong: {finding.message}"
    return Finding(("tune", "parameters", name), message, str(value), finding.allowed, uses=finding.uses)


def _with_value(
    name: str, value: Scalar, data: dict[str, Plain], check: Callable[[RunSpec], list[Finding]]
) -> list[Finding]:
    changed, _ = merged(data, {name: value})
    try:
        return check(RunSpec.model_validate(changed))
    except ValidationError as error:
        return findings_of(error, changed)
