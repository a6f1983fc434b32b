"""The YAML file to a ``RunSpec``, or to every problem in it at once."""

from __future__ import annotations

import copy
import os
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from fastserve_ray.errors import Problem, SpecError
from fastserve_ray.spec.checks import cross_check
from fastserve_ray.spec.overrides import apply_sets, merged
from fastserve_ray.spec.partial import validate_partly
from fastserve_ray.spec.run import RunSpec
from fastserve_ray.spec.words import listing
from fastserve_ray.spec.yaml_reader import Document, dotted, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastserve_ray.spec.problems import Finding
    from fastserve_ray.spec.yaml_reader import Plain


def load_spec(path: str | FilePath, sets: Sequence[str] = (), env: Mapping[str, str] | None = None) -> RunSpec:
    """Read a file.

    Args:
        path: the YAML file.
        sets: ``key=value`` texts that override keys, as with ``--set``.
        env: variables for ``${env:NAME}``; default: the process's environment.

    Raises:
        SpecError: with every problem of the file, or that it cannot be read.
    """
    try:
        text = FilePath(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 ({error})"
        raise SpecError([Problem("", f"the file cannot be read: {reason}", file=str(path))]) from error
    return parse_spec(text, file=str(path), sets=sets, env=env)


def parse_spec(
    text: str, *, file: str | None = None, sets: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> RunSpec:
    """Read YAML text; ``file`` is only its name in messages.

    Raises:
        SpecError: with every problem.
    """
    env = os.environ if env is None else env
    document = read_yaml(text, file=file, env=env)
    if isinstance(document.data, dict):
        apply_sets(document, sets, env)
    return _validated(document)


def spec_from_dict(data: Mapping[str, object]) -> RunSpec:
    """Validate plain data, as if it had been read from a file.

    Raises:
        SpecError: with every problem.
    """
    return _validated(Document(copy.deepcopy(dict(data))))  # type: ignore[arg-type]


def dump_spec(spec: RunSpec) -> dict[str, Plain]:
    """The keys that were set, as plain JSON data; ``spec_from_dict`` reads it back to an equal spec."""
    return spec.model_dump(mode="json", exclude_unset=True)


def with_overrides(spec: RunSpec, overrides: Mapping[str, object]) -> RunSpec:
    """A new spec with dotted keys changed (``{"compress.0.sparsity": 0.5}``), validated as a whole.

    Raises:
        SpecError: a key cannot be set, or the new spec is wrong.
    """
    data, problems = merged(dump_spec(spec), overrides)
    return _validated(Document(data, problems=problems))


def _validated(document: Document) -> RunSpec:
    data = document.data
    if not isinstance(data, dict):
        raise SpecError(document.problems or [_not_a_mapping(document)])
    partial = validate_partly(data)
    findings = [*partial.findings]
    if partial.spec is not None:
        findings += [finding for finding in cross_check(partial.spec) if partial.is_sound(finding)]
    unread = {problem.key for problem in document.problems if problem.key}
    placed = [finding.placed(document) for finding in findings if not _rests_on(finding, unread)]
    problems = [*document.problems, *placed]
    if problems or partial.spec is None:
        raise SpecError(sorted(problems, key=_order))
    return partial.spec


def _rests_on(finding: Finding, unread: set[str]) -> bool:
    """Whether a finding was concluded from a key that could not even be read."""
    used = [dotted(path) for path in (finding.path, *finding.uses)]
    return any(key == bad or key.startswith(f"{bad}.") for key in used for bad in unread)


def _order(problem: Problem) -> tuple[bool, int, int]:
    """As they stand in the file; what a flag set comes last."""
    return problem.line is None, problem.line or 0, problem.column or 0


def _not_a_mapping(document: Document) -> Problem:
    message = "the file is empty" if document.data is None else "the file is not a mapping of keys to values"
    mark = document.mark_of(())
    return Problem(
        "", message, allowed=f"the keys {listing(RunSpec.model_fields, 'and')}", file=mark.file, line=mark.line
    )
